-- migrate:up

-- Ids already taken, for ever: never partitioned by time (a partition key inside the unique key
-- would let the same event in twice), and nothing of a tenant's stands here.
create table taken_event_id (
    account text not null,
    mode text not null,
    stripe_event_id text not null,
    event_id uuid not null,
    body_digest bytea not null,
    primary key (account, mode, stripe_event_id)
);

-- Every verified webhook, byte for byte.
create table webhook_event (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    id uuid not null,
    account text not null,
    stripe_event_id text not null,
    event_type text not null,
    api_version text,
    event_created_at timestamptz not null,
    object_type text,
    object_id text,
    assignment text not null check (assignment in ('customer', 'metadata', 'account', 'unassigned')),
    quarantine_reason text,
    payload bytea not null,
    payload_bytes integer not null,
    headers jsonb not null,
    received_at timestamptz not null,
    primary key (tenant_id, mode, id)
);
create index webhook_event_received on webhook_event (tenant_id, mode, received_at, id);
create index webhook_event_received_anywhere on webhook_event (mode, received_at, id);
select isolate('webhook_event');
select open_to_maintenance('webhook_event');
revoke update, delete on taken_event_id, webhook_event from sluice_gateway;
