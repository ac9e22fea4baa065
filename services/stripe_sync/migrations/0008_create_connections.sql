-- migrate:up

-- The connection of a tenant as the directory had it when it was last looked at.
create table seen_connection (
    tenant_id uuid not null,
    mode text not null,
    directory_version bigint not null,
    state jsonb not null,
    primary key (tenant_id, mode)
);
select isolate('seen_connection');
select open_to_maintenance('seen_connection');

-- Versions of tenants' keys that Stripe refused, each told once.
create table refused_credential (
    tenant_id uuid not null,
    mode text not null,
    connection_id uuid not null,
    version integer not null,
    code text not null,
    refused_at timestamptz not null,
    primary key (tenant_id, mode, connection_id, version)
);
select isolate('refused_credential');

-- Tenants that withdrew our access at Stripe: one row for each time.
create table deauthorization (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    stripe_event_id text not null,
    deauthorized_at timestamptz not null,
    primary key (tenant_id, mode, account, stripe_event_id)
);
select isolate('deauthorization');
revoke update, delete on refused_credential, deauthorization from sluice_stripe_sync;
