-- migrate:up

-- Versions of plans that can be bought; the tenant is the biller.
create table plan_version (
    tenant_id uuid not null,
    mode text not null,
    plan_version_id uuid not null,
    plan_id uuid not null,
    version integer not null,
    key text not null,
    name text not null,
    interval text not null,
    currency text not null,
    collection text not null,
    prices jsonb not null,
    stripe_price_id text,
    primary key (tenant_id, mode, plan_version_id)
);
create index plan_version_key on plan_version (tenant_id, mode, key, version);
select isolate('plan_version');

-- What stands at Stripe for the flat prices of a plan version.
create table plan_price (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    price_id uuid not null,
    plan_version_id uuid not null,
    stripe_product_id text not null,
    stripe_price_id text not null,
    primary key (tenant_id, mode, account, price_id),
    foreign key (tenant_id, mode, plan_version_id)
        references plan_version (tenant_id, mode, plan_version_id)
);
create index plan_price_version on plan_price (tenant_id, mode, plan_version_id);
select isolate('plan_price');

-- A customer and its counterpart. The request is frozen before the first call, so that every try,
-- from whichever process, sends the same parameters under the same idempotency key.
create table customer_link (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    customer_id uuid not null,
    request jsonb not null,
    clock_time timestamptz,
    stripe_customer_id text,
    stripe_test_clock_id text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, account, customer_id)
);
select isolate('customer_link');

create table checkout_session (
    tenant_id uuid not null,
    mode text not null,
    checkout_id uuid not null,
    actor text not null,
    client_key text,
    account text not null,
    customer_id uuid not null,
    plan_version_id uuid not null,
    request jsonb not null,
    stripe_session_id text,
    url text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, checkout_id),
    unique (tenant_id, mode, actor, client_key)
);
select isolate('checkout_session');

-- Commands to Stripe: one row each, for ever.
create table command (
    tenant_id uuid not null,
    mode text not null,
    command_id uuid not null,
    kind text not null,
    payload jsonb not null,
    state text not null default 'pending' check (state in ('pending', 'done', 'failed')),
    attempts integer not null default 0,
    next_try_at timestamptz not null default '-infinity',
    last_error text,
    requested_at timestamptz not null,
    effective_at timestamptz not null,
    causation_id uuid not null,
    correlation_id uuid not null,
    primary key (tenant_id, mode, command_id)
);
create index command_due on command (next_try_at) where state = 'pending';
select isolate('command');
select open_to_maintenance('command');

-- Requests to move a tenant's test clock, and how far each has come.
create table clock_advance (
    tenant_id uuid not null,
    mode text not null,
    advance_id uuid not null,
    advance_to timestamptz not null,
    reached timestamptz,
    state text not null default 'pending' check (state in ('pending', 'done')),
    attempts integer not null default 0,
    next_try_at timestamptz not null default '-infinity',
    last_error text,
    requested_at timestamptz not null,
    causation_id uuid not null,
    correlation_id uuid not null,
    primary key (tenant_id, mode, advance_id)
);
create index clock_advance_due on clock_advance (next_try_at) where state = 'pending';
select isolate('clock_advance');
select open_to_maintenance('clock_advance');
