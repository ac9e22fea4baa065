-- migrate:up

-- The tenant itself. `version` counts its snapshots on tenants.directory.
create table tenant (
    tenant_id uuid primary key,
    version bigint not null check (version >= 0),
    slug text not null check (slug = lower(slug)),
    name text not null,
    type text not null check (type in ('user', 'organization')),
    status text not null check (
        status in ('trialing', 'active', 'past_due', 'suspended', 'canceled')),
    currency text not null,
    locale text not null,
    self_customer_id uuid not null,
    billing_email text,
    plan_key text,
    clock_offset_seconds integer not null default 0 check (clock_offset_seconds >= 0),
    created_by text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index tenant_created_at on tenant (created_at, tenant_id);
select isolate('tenant', with_mode => false);
select open_to_maintenance('tenant');

-- Slugs are unique over all tenants; this table holds nothing else, so that a taken slug tells
-- nothing of who took it.
create table tenant_slug (
    slug text primary key check (slug = lower(slug)),
    tenant_id uuid not null references tenant (tenant_id) deferrable initially deferred
);
create index tenant_slug_tenant on tenant_slug (tenant_id);
select isolate('tenant_slug', with_mode => false);
revoke update, delete on tenant_slug from sluice_tenants;

-- The subscription that the platform bills the tenant for, as billing last told of it.
create table platform_subscription (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    subscription_id uuid not null,
    customer_id uuid not null,
    version integer not null,
    plan_key text not null,
    status text not null,
    stripe_subscription_id text,
    primary key (tenant_id, mode, subscription_id)
);
select isolate('platform_subscription', with_mode => false);
select open_to_maintenance('platform_subscription');

-- The tenant's objects in the platform's Stripe account: who a webhook of that account concerns.
create table stripe_object (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    kind text not null check (kind in ('customer', 'subscription')),
    stripe_id text not null,
    customer_id uuid not null,
    linked_at timestamptz not null,
    primary key (tenant_id, mode, kind, stripe_id)
);
select isolate('stripe_object', with_mode => false);
select open_to_maintenance('stripe_object');

create table api_key (
    tenant_id uuid not null references tenant (tenant_id),
    key_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    prefix text not null,
    key_hash bytea not null check (length(key_hash) = 32),
    name text not null,
    scopes text[] not null,
    operator boolean not null default false,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_by text not null,
    created_at timestamptz not null,
    primary key (tenant_id, key_id),
    unique (tenant_id, prefix),
    -- 00000000-0000-7000-8000-000000000001 is the platform: only its keys are operators'.
    check (not operator or tenant_id = '00000000-0000-7000-8000-000000000001')
);
select isolate('api_key', with_mode => false);

-- Asked-for moves of the business clock; one at a time, test mode only.
create table clock_advance (
    tenant_id uuid not null references tenant (tenant_id),
    mode text not null check (mode = 'test'),
    advance_id uuid not null,
    advance_to timestamptz not null,
    requested_by text not null,
    requested_at timestamptz not null,
    reached timestamptz,
    finished_at timestamptz,
    failure text,
    primary key (tenant_id, mode, advance_id)
);
create unique index clock_advance_open on clock_advance (tenant_id, mode)
    where finished_at is null;
select isolate('clock_advance');

-- Keys that seal what must not stand here in the clear, wrapped by a master key.
create table data_key (
    tenant_id uuid not null references tenant (tenant_id),
    data_key_id uuid not null,
    wrapped bytea not null,
    uses bigint not null default 0,
    created_at timestamptz not null,
    primary key (tenant_id, data_key_id)
);
select isolate('data_key', with_mode => false);

-- Ed25519 keys that sign assertions; they belong to the platform.
create table signing_key (
    tenant_id uuid not null references tenant (tenant_id),
    key_id text not null,
    public_key text not null,
    private_key_sealed bytea not null,
    data_key_id uuid not null,
    created_at timestamptz not null,
    primary key (tenant_id, key_id),
    foreign key (tenant_id, data_key_id) references data_key (tenant_id, data_key_id)
);
select isolate('signing_key', with_mode => false);
revoke update, delete on signing_key from sluice_tenants;
