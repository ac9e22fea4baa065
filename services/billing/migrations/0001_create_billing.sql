-- migrate:up

-- The catalog. A version holds the complete published fact and never changes.
create table plan (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    key text not null,
    created_at timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, key)
);
select isolate('plan');

create table plan_version (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    plan_id uuid not null,
    version integer not null check (version > 0),
    content_hash bytea not null,
    fact jsonb not null,
    published_at timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, plan_id, version),
    foreign key (tenant_id, mode, plan_id) references plan (tenant_id, mode, id)
);
select isolate('plan_version');
revoke update, delete on plan_version from sluice_billing;

-- Meters that metering has announced; a price may name only these.
create table meter (
    tenant_id uuid not null,
    mode text not null,
    key text not null,
    meter_id uuid not null,
    primary key (tenant_id, mode, key)
);
select isolate('meter');

create table customer (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    billed_by text not null check (billed_by in ('platform', 'tenant')),
    name text not null,
    email text,
    currency text not null,
    stripe_customer_id text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, id)
);
select isolate('customer');
create unique index customer_self on customer (tenant_id, mode) where billed_by = 'platform';

-- One per customer; the row stays when the plan changes.
create table subscription (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    customer_id uuid not null,
    version integer not null check (version > 0),
    plan_key text not null,
    plan_version_id uuid not null,
    status text not null,
    collection text not null,
    currency text not null,
    period_from timestamptz,
    period_to timestamptz,
    cancel_at_period_end boolean not null default false,
    stripe_subscription_id text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, customer_id),
    foreign key (tenant_id, mode, customer_id) references customer (tenant_id, mode, id),
    check (period_from <= period_to)
);
select isolate('subscription');

-- The last state seen of each Stripe subscription, whether or not it is the current one.
create table stripe_subscription (
    tenant_id uuid not null,
    mode text not null,
    stripe_subscription_id text not null,
    subscription_id uuid not null,
    version bigint not null,
    plan_version_id uuid not null,
    period_end timestamptz not null,
    primary key (tenant_id, mode, stripe_subscription_id),
    foreign key (tenant_id, mode, subscription_id) references subscription (tenant_id, mode, id)
);
select isolate('stripe_subscription');

-- Which plan version a Stripe subscription bought from when on: usage is rated by the version that
-- held when its period ended.
create table plan_phase (
    tenant_id uuid not null,
    mode text not null,
    stripe_subscription_id text not null,
    effective_from timestamptz not null,
    plan_version_id uuid not null,
    primary key (tenant_id, mode, stripe_subscription_id, effective_from),
    foreign key (tenant_id, mode, stripe_subscription_id)
        references stripe_subscription (tenant_id, mode, stripe_subscription_id)
);
select isolate('plan_phase');

-- Facts that came before what they refer to, in the order they came.
create table waiting_fact (
    tenant_id uuid not null,
    mode text not null,
    event_id uuid not null,
    waits_for text not null,
    position bigint generated always as identity,
    event_type text not null,
    event jsonb not null,
    primary key (tenant_id, mode, event_id)
);
create index waiting_fact_order on waiting_fact (tenant_id, mode, waits_for, position);
select isolate('waiting_fact');

create table invoice (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    customer_id uuid not null,
    subscription_id uuid,
    stripe_subscription_id text,
    stripe_invoice_id text not null,
    stripe_version bigint not null,
    reason text not null,
    status text not null check (status in ('draft', 'open', 'paid', 'void', 'uncollectible')),
    number text,
    currency text not null,
    period_from timestamptz not null,
    period_to timestamptz not null,
    total_minor bigint not null default 0,
    paid_minor bigint not null default 0,
    hosted_invoice_url text,
    command_id uuid,
    completion_error text,
    finalized_at timestamptz,
    paid_at timestamptz,
    created_at timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, stripe_invoice_id),
    foreign key (tenant_id, mode, customer_id) references customer (tenant_id, mode, id),
    foreign key (tenant_id, mode, subscription_id) references subscription (tenant_id, mode, id),
    check (status = 'draft' or finalized_at is not null),
    check (finalized_at is null or number is not null)
);
select isolate('invoice');
-- One first invoice and one invoice per ended period. Changes within a period (prorations) may make
-- several documents; those are told apart by Stripe's id.
create unique index invoice_once on invoice (
    tenant_id, mode, subscription_id, reason, period_from, period_to, stripe_subscription_id
) where reason in ('subscription_create', 'subscription_cycle');
create index invoice_command on invoice (tenant_id, mode, command_id);

create table invoice_line (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    invoice_id uuid not null,
    position integer not null,
    kind text not null check (kind in ('flat', 'usage', 'proration', 'credit')),
    description text not null,
    amount_minor bigint not null,
    meter text,
    quantity numeric,
    period_from timestamptz,
    period_to timestamptz,
    stripe_line_id text,
    explanation jsonb,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, invoice_id, stripe_line_id),
    foreign key (tenant_id, mode, invoice_id) references invoice (tenant_id, mode, id),
    check (kind <> 'credit' or amount_minor < 0),
    check (kind not in ('flat', 'proration') or stripe_line_id is not null)
);
select isolate('invoice_line');
create index invoice_line_invoice on invoice_line (tenant_id, mode, invoice_id, position);

-- A final invoice never changes: neither its lines nor what they add up to.
create function refuse_change_of_final_lines() returns trigger
language plpgsql as $$
begin
    if exists (
        select from invoice i
        where i.tenant_id = coalesce(new.tenant_id, old.tenant_id)
            and i.mode = coalesce(new.mode, old.mode)
            and i.id in (new.invoice_id, old.invoice_id) and i.finalized_at is not null) then
        raise exception 'the lines of a final invoice never change';
    end if;
    return coalesce(new, old);
end $$;
create trigger final_lines_stay before insert or update or delete on invoice_line
for each row execute function refuse_change_of_final_lines();

create function refuse_change_of_final_invoice() returns trigger
language plpgsql as $$
begin
    raise exception 'a final invoice never changes';
end $$;
create trigger final_invoice_stays before update on invoice
for each row when (
    old.finalized_at is not null
    and (old.finalized_at, old.number, old.currency, old.total_minor, old.period_from,
        old.period_to, old.customer_id, old.subscription_id)
    is distinct from (new.finalized_at, new.number, new.currency, new.total_minor, new.period_from,
        new.period_to, new.customer_id, new.subscription_id))
execute function refuse_change_of_final_invoice();
do $$
begin
    execute format('alter function refuse_change_of_final_lines() set search_path = %I, pg_temp',
        current_schema());
    execute format('alter function refuse_change_of_final_invoice() set search_path = %I, pg_temp',
        current_schema());
end $$;
revoke delete on invoice from sluice_billing;

-- A period whose quantities metering was asked for.
create table usage_closure (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    subscription_id uuid not null,
    plan_version_id uuid not null,
    invoice_id uuid not null,
    period_from timestamptz not null,
    period_to timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, subscription_id, period_from, period_to),
    unique (tenant_id, mode, invoice_id),
    foreign key (tenant_id, mode, subscription_id) references subscription (tenant_id, mode, id),
    foreign key (tenant_id, mode, invoice_id) references invoice (tenant_id, mode, id)
);
select isolate('usage_closure');
revoke update, delete on usage_closure from sluice_billing;

-- Metering's answers, as they came.
create table period_usage (
    tenant_id uuid not null,
    mode text not null,
    closure_id uuid not null,
    meter text not null,
    revision integer not null,
    quantity numeric not null,
    event_count bigint not null,
    primary key (tenant_id, mode, closure_id, meter, revision)
);
select isolate('period_usage');
revoke update, delete on period_usage from sluice_billing;

-- What a meter's usage of a closed period costs by its latest revision, and how much of that stands
-- on invoices already. The difference goes on the next invoice.
create table usage_charge (
    tenant_id uuid not null,
    mode text not null,
    closure_id uuid not null,
    subscription_id uuid not null,
    meter text not null,
    revision integer not null,
    quantity numeric not null,
    rated_minor bigint not null,
    explanation jsonb not null,
    on_invoice boolean not null default false,
    invoiced_minor bigint not null default 0,
    invoiced_quantity numeric not null default 0,
    primary key (tenant_id, mode, closure_id, meter),
    foreign key (tenant_id, mode, closure_id) references usage_closure (tenant_id, mode, id)
);
select isolate('usage_charge');
create index usage_charge_due on usage_charge (tenant_id, mode, subscription_id)
where rated_minor <> invoiced_minor or not on_invoice;

create table credit_grant (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    customer_id uuid not null,
    currency text not null,
    amount_minor bigint not null check (amount_minor > 0),
    used_minor bigint not null default 0 check (used_minor between 0 and amount_minor),
    expires_at timestamptz,
    granted_at timestamptz not null,
    primary key (tenant_id, mode, id),
    foreign key (tenant_id, mode, customer_id) references customer (tenant_id, mode, id)
);
select isolate('credit_grant');
create index credit_grant_customer on credit_grant (tenant_id, mode, customer_id, currency);
revoke delete on credit_grant from sluice_billing;

create table credit_use (
    tenant_id uuid not null,
    mode text not null,
    invoice_id uuid not null,
    grant_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    primary key (tenant_id, mode, invoice_id, grant_id),
    foreign key (tenant_id, mode, invoice_id) references invoice (tenant_id, mode, id),
    foreign key (tenant_id, mode, grant_id) references credit_grant (tenant_id, mode, id)
);
select isolate('credit_use');
create index credit_use_grant on credit_use (tenant_id, mode, grant_id);
revoke update, delete on credit_use from sluice_billing;
