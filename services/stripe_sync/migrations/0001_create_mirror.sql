-- migrate:up

-- Who holds a piece of work that calls Stripe (such work cannot hold a row lock). No tenant's data.
create table lease (
    name text primary key,
    token uuid not null,
    held_until timestamptz not null
);

-- Whose object it is, decided once: look-ups by Stripe id before a tenant is known, and the unique
-- claim that no two tenants ever book the same charge or balance transaction. Nothing else.
create table object_owner (
    account text not null,
    mode text not null,
    object_id text not null,
    tenant_id uuid not null,
    customer_id uuid,
    primary key (account, mode, object_id)
);
create index object_owner_tenant on object_owner (tenant_id, mode);
select isolate('object_owner');
create function find_owner(wanted_account text, wanted_mode text, wanted_id text) returns jsonb
language plpgsql stable security definer as $$
begin
    return (
        select jsonb_build_object('tenant_id', o.tenant_id, 'customer_id', o.customer_id)
        from object_owner o
        where o.account = wanted_account and o.mode = wanted_mode and o.object_id = wanted_id);
end $$;
do $$
begin
    execute format('alter function find_owner(text, text, text) set search_path = %I, pg_temp',
        current_schema());
end $$;
create policy look_up on object_owner to sluice_lookup using (true);
grant select on object_owner to sluice_lookup;
alter function find_owner(text, text, text) owner to sluice_lookup;

-- Objects that changed at Stripe and are to be fetched. `generation` tells a mark made during a
-- fetch from the one that the fetch answers.
create sequence dirty_generation;
create table dirty_object (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    object_type text not null,
    object_id text not null,
    generation bigint not null,
    attempts integer not null default 0,
    next_try_at timestamptz not null default '-infinity',
    last_error text,
    primary key (tenant_id, mode, account, object_type, object_id)
);
create index dirty_object_due on dirty_object (account, mode, next_try_at);
select isolate('dirty_object');
select open_to_maintenance('dirty_object');

-- The mirror. `fact` is what was last said of the object; `version` counts what was said.
create table stripe_object (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    object_type text not null,
    object_id text not null,
    raw jsonb not null,
    fact jsonb,
    version integer not null default 0,
    deleted boolean not null default false,
    fetched_at timestamptz not null,
    primary key (tenant_id, mode, account, object_type, object_id)
);
select isolate('stripe_object');

create table payment (
    tenant_id uuid not null,
    mode text not null,
    payment_id uuid not null,
    account text not null,
    collected_by text not null check (collected_by in ('platform', 'tenant')),
    customer_id uuid not null,
    stripe_customer_id text,
    stripe_charge_id text not null,
    stripe_payment_intent_id text,
    stripe_invoice_id text,
    stripe_payment_link_id text,
    status text not null check (status in (
        'PROCESSING', 'AUTHORIZED', 'COMPLETED', 'FAILED', 'PARTIALLY_REFUNDED', 'REFUNDED')),
    amount_minor bigint not null,
    refunded_minor bigint not null default 0,
    currency text not null,
    failure_code text,
    receipt_number text,
    receipt_url text,
    receipt_email text,
    created_at timestamptz not null,
    paid_at timestamptz,
    primary key (tenant_id, mode, payment_id),
    unique (tenant_id, mode, account, stripe_charge_id)
);
create index payment_created on payment (tenant_id, mode, created_at, payment_id);
create index payment_created_anywhere on payment (mode, created_at, payment_id);
select isolate('payment');
select open_to_maintenance('payment');

create table balance_transaction (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    stripe_balance_transaction_id text not null,
    kind text not null,
    source_id text,
    amount_minor bigint not null,
    fee_minor bigint not null,
    net_minor bigint not null,
    currency text not null,
    created_at timestamptz not null,
    available_at timestamptz not null,
    raw jsonb not null,
    primary key (tenant_id, mode, account, stripe_balance_transaction_id)
);
select isolate('balance_transaction');
revoke update, delete on balance_transaction from sluice_stripe_sync;

-- How far balance transactions have been listed. Of an account, not of a tenant.
create table transaction_cursor (
    account text not null,
    mode text not null,
    listed_to timestamptz not null,
    primary key (account, mode)
);
