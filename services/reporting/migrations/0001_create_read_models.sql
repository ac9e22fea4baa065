-- migrate:up

-- Operators read every tenant's rows through the maintenance role; nothing else does.
create function open_to_operators(target regclass) returns void
language plpgsql as $$
begin
    execute format('grant select on %s to sluice_reporting_maintenance', target);
    execute format('create policy operators on %s for select to sluice_reporting_maintenance '
        'using (true)', target);
end $$;

-- As in the ledger: a tenant's members have only the book `tenant` in scope.
create function isolate_by_book(target regclass) returns void
language plpgsql as $$
begin
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format('create policy tenant_isolation on %s using ('
        'tenant_id = any ((select string_to_array(nullif('
        'current_setting(''app.tenants'', true), ''''), '','')::uuid[])::uuid[])'
        ' and mode = (select nullif(current_setting(''app.mode'', true), ''''))'
        ' and book = any ((select string_to_array(nullif('
        'current_setting(''app.books'', true), ''''), '',''))::text[]))', target);
end $$;

-- What each journal entry earned (credits less debits of a revenue account): that it is here once
-- is what keeps the sums by month right.
create table revenue_line (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    entry_id uuid not null,
    account text not null,
    currency text not null,
    amount_minor bigint not null,
    month date not null check (extract(day from month) = 1),
    primary key (tenant_id, mode, book, entry_id, account, currency)
);
select isolate_by_book('revenue_line');
select open_to_operators('revenue_line');

create table revenue_month (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    month date not null,
    currency text not null,
    account text not null,
    amount_minor bigint not null,
    primary key (tenant_id, mode, book, month, currency, account)
);
select isolate_by_book('revenue_month');
select open_to_operators('revenue_month');

-- An invoice's two facts may come in either order, so each fills in its own columns.
create table invoice (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    billed_by text,
    currency text not null,
    total_minor bigint,
    finalized_at timestamptz,
    paid_minor bigint,
    paid_at timestamptz,
    primary key (tenant_id, mode, id)
);
select isolate('invoice');
select open_to_operators('invoice');

-- Each attempt to collect, by what came of it.
create table payment_attempt (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    attempt_key text not null,
    outcome text not null check (outcome in ('succeeded', 'failed')),
    collected_by text not null,
    amount_minor bigint not null,
    currency text not null,
    failure_code text,
    attempted_at timestamptz not null,
    primary key (tenant_id, mode, account, attempt_key, outcome)
);
select isolate('payment_attempt');
select open_to_operators('payment_attempt');

-- The latest state of each subscription; only a higher version replaces it.
create table subscription (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    version integer not null,
    billed_by text not null,
    plan_key text not null,
    status text not null,
    currency text not null,
    primary key (tenant_id, mode, id)
);
select isolate('subscription');
select open_to_operators('subscription');
