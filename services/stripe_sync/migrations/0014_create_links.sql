-- migrate:up

-- Addresses at Stripe where whoever has them may pay. The request is frozen as for a checkout.
create table payment_link (
    tenant_id uuid not null,
    mode text not null,
    link_id uuid not null,
    actor text not null,
    client_key text,
    account text not null,
    collected_by text not null check (collected_by in ('platform', 'tenant')),
    customer_id uuid,
    name text,
    amount_minor bigint not null,
    currency text not null,
    quantity integer not null,
    application_fee_minor bigint not null default 0,
    request jsonb not null,
    stripe_payment_link_id text,
    url text,
    active boolean not null default true,
    created_at timestamptz not null,
    deactivated_at timestamptz,
    primary key (tenant_id, mode, link_id),
    unique (tenant_id, mode, actor, client_key)
);
create index payment_link_created on payment_link (tenant_id, mode, created_at, link_id);
create index payment_link_created_anywhere on payment_link (mode, created_at, link_id);
select isolate('payment_link');
select open_to_maintenance('payment_link');

-- A checkout that collects an amount sells no plan.
-- squawk-ignore ban-drop-not-null
alter table checkout_session alter column plan_version_id drop not null;
