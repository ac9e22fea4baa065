-- migrate:up

-- A tenant's own Stripe account, one per mode. `webhook_token_hashes` are SHA-256 of the opaque part
-- of its webhook URL; the token itself is given to Stripe and kept nowhere.
create table stripe_connection (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    connection_id uuid not null,
    kind text not null check (kind in ('CONNECT_STANDARD', 'CONNECT_EXPRESS', 'RAW_KEYS')),
    status text not null check (status in ('NOT_CONNECTED', 'PENDING', 'CONNECTED', 'REVOKED')),
    is_active boolean not null default true,
    account_id text check (account_id ~ '^acct_[A-Za-z0-9_]{1,100}$'),
    publishable_key text,
    limited boolean not null default false,
    application_fee_basis_points integer check (application_fee_basis_points between 0 and 10000),
    charges_enabled boolean not null default false,
    payouts_enabled boolean not null default false,
    details_submitted boolean not null default false,
    requirements_due text[] not null default '{}',
    disabled_reason text,
    health_at timestamptz,
    key_valid boolean not null default true,
    key_failure text,
    key_checked_at timestamptz,
    key_check_due_at timestamptz,
    webhook_state text not null default 'none' check (
        webhook_state in ('none', 'wanted', 'registered', 'given')),
    webhook_failure text,
    webhook_endpoint_id text,
    webhook_token_hashes text[] not null default '{}' check (cardinality(webhook_token_hashes) <= 2),
    webhook_due_at timestamptz,
    pending_since timestamptz,
    connected_at timestamptz,
    revoked_at timestamptz,
    created_by text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, mode),
    unique (tenant_id, mode, connection_id)
);
create index stripe_connection_key_check on stripe_connection (key_check_due_at)
    where key_check_due_at is not null;
create index stripe_connection_webhook on stripe_connection (webhook_due_at)
    where webhook_due_at is not null;
select isolate('stripe_connection', with_mode => false);
select open_to_maintenance('stripe_connection');

-- Which tenant a Stripe account belongs to, over all tenants. Holds nothing else, so that an account
-- that is taken tells nothing of who took it.
create table stripe_account_owner (
    mode text not null check (mode in ('test', 'live')),
    account_id text not null,
    tenant_id uuid not null,
    primary key (mode, account_id)
);
create index stripe_account_owner_tenant on stripe_account_owner (tenant_id, mode);
select isolate('stripe_account_owner');

-- Versions of a connection's secrets: sealed under the tenant's data key, or a reference into a
-- secret store. `current` and `previous` are told to those who use them; `archived` is kept here
-- only, until it is known to be worthless at Stripe; of `destroyed` only what names it is left.
create table connection_secret (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    secret_id uuid not null,
    connection_id uuid not null,
    name text not null check (name in ('stripe_secret_key', 'stripe_webhook_secret')),
    version integer not null check (version > 0),
    state text not null check (state in ('current', 'previous', 'archived', 'destroyed')),
    valid_until timestamptz,
    fingerprint text not null,
    last4 text not null check (length(last4) <= 4),
    sealed bytea,
    reference text,
    data_key_id uuid,
    created_by text not null,
    created_at timestamptz not null,
    replaced_at timestamptz,
    archived_at timestamptz,
    destroyed_at timestamptz,
    dead_at timestamptz,
    check_due_at timestamptz,
    primary key (tenant_id, mode, secret_id),
    unique (tenant_id, mode, connection_id, name, version),
    foreign key (tenant_id, mode, connection_id)
        references stripe_connection (tenant_id, mode, connection_id),
    check ((state = 'destroyed') = (sealed is null and reference is null)),
    check (sealed is null or reference is null),
    check (sealed is null or data_key_id is not null)
);
create unique index connection_secret_current
    on connection_secret (tenant_id, mode, connection_id, name) where state = 'current';
create index connection_secret_data_key on connection_secret (tenant_id, data_key_id)
    where sealed is not null;
create index connection_secret_rotating on connection_secret (check_due_at)
    where state in ('previous', 'archived');
select isolate('connection_secret', with_mode => false);
select open_to_maintenance('connection_secret');

-- The version of what `tenants.secrets` tells of a tenant.
create table secrets_version (
    tenant_id uuid primary key,
    version bigint not null check (version > 0)
);
select isolate('secrets_version', with_mode => false);

-- A way back from Stripe's pages: found by the hash of its state only, good once.
create table connect_state (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    state_hash bytea not null check (length(state_hash) = 32),
    purpose text not null check (purpose in ('oauth', 'account_link')),
    actor text not null,
    session_id uuid,
    return_to text not null,
    confirm_account_change boolean not null default false,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    primary key (tenant_id, mode, state_hash)
);
create index connect_state_expires_at on connect_state (expires_at);
select isolate('connect_state');
select open_to_maintenance('connect_state');
