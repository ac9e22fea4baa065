-- migrate:up

-- Customers as billing told of them; the name goes where the customer is erased.
create table known_customer (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    billed_by text not null check (billed_by in ('platform', 'tenant')),
    name text,
    primary key (tenant_id, mode, customer_id)
);
select isolate('known_customer');

-- Calls that somebody asked for and that move money: what is to be sent stands here before the first
-- try, so that every try, from whichever process, sends the same under the same idempotency key. Once
-- it has an answer a row keeps nothing of what was sent.
create table payment_request (
    tenant_id uuid not null,
    mode text not null,
    request_id uuid not null,
    kind text not null check (kind in ('intent', 'confirm', 'capture', 'cancel', 'refund')),
    payment_id uuid not null,
    account text not null,
    actor text not null,
    client_key text,
    request jsonb not null,
    state text not null default 'open' check (state in ('open', 'done', 'refused')),
    refusal text,
    refusal_status integer,
    attempts integer not null default 0,
    next_try_at timestamptz not null,
    last_error text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, request_id),
    unique (tenant_id, mode, actor, client_key)
);
create index payment_request_due on payment_request (next_try_at) where state = 'open';
create index payment_request_created on payment_request (tenant_id, mode, created_at, request_id);
create index payment_request_created_anywhere on payment_request (mode, created_at, request_id);
select isolate('payment_request');
select open_to_maintenance('payment_request');
