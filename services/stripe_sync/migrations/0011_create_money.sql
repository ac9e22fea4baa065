-- migrate:up

-- Money given back. A refund that we ask for is entered before Stripe is called: its status is
-- `unknown` until there is an answer. The other statuses are Stripe's own words.
create table refund (
    tenant_id uuid not null,
    mode text not null,
    refund_id uuid not null,
    account text not null,
    collected_by text not null check (collected_by in ('platform', 'tenant')),
    customer_id uuid not null,
    payment_id uuid,
    stripe_refund_id text,
    stripe_charge_id text,
    stripe_payment_intent_id text,
    status text not null check (status in (
        'unknown', 'pending', 'requires_action', 'succeeded', 'failed', 'canceled')),
    amount_minor bigint not null,
    currency text not null,
    reason text,
    failure_reason text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, refund_id),
    unique (tenant_id, mode, account, stripe_refund_id)
);
create index refund_created on refund (tenant_id, mode, created_at, refund_id);
create index refund_created_anywhere on refund (mode, created_at, refund_id);
create index refund_of_payment on refund (tenant_id, mode, payment_id);
select isolate('refund');
select open_to_maintenance('refund');

-- Payments that a payer's bank took back, or threatens to; Stripe's own words.
create table dispute (
    tenant_id uuid not null,
    mode text not null,
    dispute_id uuid not null,
    account text not null,
    collected_by text not null check (collected_by in ('platform', 'tenant')),
    customer_id uuid not null,
    payment_id uuid,
    stripe_dispute_id text not null,
    stripe_charge_id text not null,
    stripe_payment_intent_id text,
    status text not null,
    amount_minor bigint not null,
    currency text not null,
    reason text not null,
    evidence_due_at timestamptz,
    created_at timestamptz not null,
    primary key (tenant_id, mode, dispute_id),
    unique (tenant_id, mode, account, stripe_dispute_id)
);
create index dispute_created on dispute (tenant_id, mode, created_at, dispute_id);
create index dispute_created_anywhere on dispute (mode, created_at, dispute_id);
create index dispute_of_payment on dispute (tenant_id, mode, payment_id);
select isolate('dispute');
select open_to_maintenance('dispute');

-- What Stripe pays out to an account's bank; Stripe's own words. Of the platform's account they are
-- the platform's.
create table payout (
    tenant_id uuid not null,
    mode text not null,
    payout_id uuid not null,
    account text not null,
    collected_by text not null check (collected_by in ('platform', 'tenant')),
    stripe_payout_id text not null,
    status text not null check (status in (
        'pending', 'in_transit', 'paid', 'failed', 'canceled')),
    amount_minor bigint not null,
    currency text not null,
    arrival_on date not null,
    automatic boolean not null,
    failure_code text,
    failure_message text,
    created_at timestamptz not null,
    primary key (tenant_id, mode, payout_id),
    unique (tenant_id, mode, account, stripe_payout_id)
);
create index payout_created on payout (tenant_id, mode, created_at, payout_id);
create index payout_created_anywhere on payout (mode, created_at, payout_id);
select isolate('payout');
select open_to_maintenance('payout');
