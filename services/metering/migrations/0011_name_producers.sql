-- migrate:up

-- Who may put usage straight on the topic. A producer of the platform's may for every tenant.
create table usage_producer (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    name text not null,
    created_by text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz,
    primary key (tenant_id, mode, id)
);
select isolate('usage_producer');
revoke delete on usage_producer from sluice_metering;

-- What was refused there, told to staff once a day for each producer and reason; `record` names the
-- first. It is the platform's own, for the tenant that such a record names may be any.
create table usage_refusal (
    tenant_id uuid not null,
    mode text not null,
    received_day date not null,
    producer text not null,
    reason text not null,
    record text not null,
    primary key (tenant_id, mode, received_day, producer, reason)
);
select isolate('usage_refusal');
select open_to_maintenance('usage_refusal');
