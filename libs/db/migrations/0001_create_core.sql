-- migrate:up

-- Row-level security of a tenant table. Kept in one place because the form of the policy matters:
-- the sub-selects make Postgres read the settings once per statement, not once per row.
create function isolate(target regclass, with_mode boolean default true) returns void
language plpgsql as $$
declare
    tenants text := 'tenant_id = any ((select string_to_array(nullif('
        'current_setting(''app.tenants'', true), ''''), '','')::uuid[])::uuid[])';
    in_mode text := ' and mode = (select nullif(current_setting(''app.mode'', true), ''''))';
begin
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format('create policy tenant_isolation on %s using (%s)', target,
        tenants || case when with_mode then in_mode else '' end);
end $$;

-- Cross-tenant work (relay, due jobs, operators) goes through a role of its own, which sees exactly
-- the tables that are opened to it.
create function open_to_maintenance(target regclass) returns void
language plpgsql as $$
declare
    maintenance text := 'sluice_' || (
        select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = target) || '_maintenance';
begin
    execute format('grant select, insert, update, delete on %s to %I', target, maintenance);
    if (select relrowsecurity from pg_class where oid = target) then
        execute format('create policy maintenance on %s to %I using (true)', target, maintenance);
    end if;
end $$;

-- Where each consumer stands, with a digest of the last record it took.
create table fence (
    consumer text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_digest bytea,
    moved_at timestamptz not null default now(),
    primary key (consumer, topic, partition)
);

-- Events already taken. Holds ids only.
create table inbox (
    consumer text not null,
    event_id uuid not null,
    received_at timestamptz not null default now(),
    primary key (consumer, event_id)
);
create index inbox_received_at on inbox (received_at);

-- Events to be sent, written in the transaction of the change they tell of.
create table outbox (
    id bigint generated always as identity primary key,
    tenant_id uuid not null,
    mode text,
    topic text not null,
    event_id uuid not null,
    event_type text not null,
    payload text not null,
    headers jsonb not null default '{}',
    shard smallint not null,
    stream_seq bigint,
    created_at timestamptz not null default now(),
    sent_at timestamptz
);
create index outbox_unsent on outbox (shard, id) where sent_at is null;
create index outbox_tenant on outbox (tenant_id, mode, topic);
create index outbox_sent on outbox (sent_at) where sent_at is not null;
alter table outbox enable row level security;
alter table outbox force row level security;
create policy tenant_isolation on outbox using (
    tenant_id = any ((select string_to_array(nullif(
        current_setting('app.tenants', true), ''), ',')::uuid[])::uuid[])
    and mode is not distinct from (select nullif(current_setting('app.mode', true), '')));
select open_to_maintenance('outbox');

-- The last number given to each stream of this service: (tenant, topic).
create table stream (
    tenant_id uuid not null,
    topic text not null,
    last_seq bigint not null,
    primary key (tenant_id, topic)
);
select isolate('stream', with_mode => false);
select open_to_maintenance('stream');

-- The last number seen of each stream that is consumed; a hole is a lost event.
create table stream_position (
    consumer text not null,
    tenant_id uuid not null,
    topic text not null,
    source text not null,
    last_seq bigint not null,
    primary key (tenant_id, consumer, topic, source)
);
select isolate('stream_position', with_mode => false);

-- Keys whose order was broken by a failing event: what follows waits behind it.
create table parked_key (
    consumer text not null,
    topic text not null,
    key text not null,
    partition integer not null,
    reason text not null,
    detail text not null,
    records integer not null default 0,
    bytes bigint not null default 0,
    parked_at timestamptz not null default now(),
    released_at timestamptz,
    primary key (consumer, topic, key)
);
create table parked_record (
    id bigint generated always as identity primary key,
    consumer text not null,
    topic text not null,
    key text not null,
    partition integer not null,
    record_offset bigint not null,
    record_at timestamptz not null,
    value bytea,
    headers jsonb not null default '[]',
    parked_at timestamptz not null default now()
);
create index parked_record_key on parked_record (consumer, topic, key, id);

-- Records that can never be applied, with every byte of them.
create table dead_letter (
    id uuid primary key,
    consumer text not null,
    topic text not null,
    partition integer not null,
    record_offset bigint not null,
    key bytea,
    value bytea,
    headers jsonb not null default '[]',
    reason text not null,
    detail text not null,
    created_at timestamptz not null default now(),
    unique (consumer, topic, partition, record_offset)
);

-- The service writes these two while it consumes and never reads them across tenants.
alter table parked_record enable row level security;
alter table parked_record force row level security;
create policy park on parked_record for insert with check (true);
select open_to_maintenance('parked_record');
alter table dead_letter enable row level security;
alter table dead_letter force row level security;
create policy bury on dead_letter for insert with check (true);
select open_to_maintenance('dead_letter');
select open_to_maintenance('parked_key');

-- A consumer that stopped itself (five permanent failures in a row): lifted by an operator or by
-- another code version.
create table consumer_stop (
    consumer text primary key,
    reason text not null,
    detail text not null,
    code_version text not null,
    stopped_at timestamptz not null default now()
);

-- The local copy of the tenants' public records (topic tenants.directory).
create table directory (
    tenant_id uuid primary key,
    version bigint not null,
    slug text not null,
    clock_offset_seconds integer not null,
    snapshot jsonb not null,
    applied_at timestamptz not null default now()
);
select isolate('directory', with_mode => false);
select open_to_maintenance('directory');

-- Look-ups before a tenant is known; holds nothing else.
create table directory_lookup (
    kind text not null,
    value text not null,
    tenant_id uuid not null,
    primary key (kind, value)
);
create index directory_lookup_tenant on directory_lookup (tenant_id);
select isolate('directory_lookup', with_mode => false);
select open_to_maintenance('directory_lookup');

-- One exact look-up, pinned search path, as a role that can do nothing else.
create function find_tenant(wanted_kind text, wanted_value text) returns jsonb
language plpgsql stable security definer as $$
begin
    return (
        select jsonb_build_object('tenant_id', d.tenant_id, 'snapshot', d.snapshot)
        from directory_lookup l join directory d using (tenant_id)
        where l.kind = wanted_kind and l.value = wanted_value);
end $$;
do $$
begin
    execute format('alter function find_tenant(text, text) set search_path = %I, pg_temp',
        current_schema());
end $$;
create policy look_up on directory to sluice_lookup using (true);
create policy look_up on directory_lookup to sluice_lookup using (true);
grant select on directory, directory_lookup to sluice_lookup;
alter function find_tenant(text, text) owner to sluice_lookup;

-- Answers kept under a client's Idempotency-Key.
create table idempotency_key (
    tenant_id uuid not null,
    mode text not null,
    caller text not null,
    key text not null,
    request_hash bytea not null,
    status smallint,
    answer jsonb,
    created_at timestamptz not null default now(),
    primary key (tenant_id, mode, caller, key)
);
create index idempotency_key_created_at on idempotency_key (created_at);
select isolate('idempotency_key');
select open_to_maintenance('idempotency_key');
