-- migrate:up

-- A key that was rotated has one successor, which names it here.
alter table api_key
    add column replaces uuid,
    add column revoke_reason text;

-- The latest use of each version of a key or secret, as each service last told of it.
create table key_use (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    kind text not null check (
        kind in ('api_key', 'stripe_secret_key', 'stripe_webhook_secret')),
    object_id text not null,
    version integer not null,
    service text not null,
    used_at timestamptz not null,
    primary key (tenant_id, mode, kind, object_id, version, service)
);
create index key_use_object on key_use (tenant_id, kind, object_id);
select isolate('key_use', with_mode => false);
