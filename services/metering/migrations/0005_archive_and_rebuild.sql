-- migrate:up

-- How far each partition of usage.events is archived. `planned_offset` is the end of the stretch that
-- is being written: a stretch begun again after a crash is the same one, and makes the same files.
create table archive_place (
    partition integer primary key,
    next_offset bigint not null,
    planned_offset bigint check (planned_offset > next_offset),
    archived_at timestamptz not null,
    lost_records bigint not null default 0
);
select open_to_maintenance('archive_place');

-- The files of the archive. What is not listed here is no part of it.
create table archived_file (
    tenant_id uuid not null,
    mode text not null,
    received_day date not null,
    partition integer not null,
    first_offset bigint not null,
    next_offset bigint not null,
    records bigint not null,
    size_bytes bigint not null,
    sha256 bytea not null,
    primary key (tenant_id, mode, received_day, partition, first_offset)
);
select isolate('archived_file');
select open_to_maintenance('archived_file');

-- Runs that build a tenant's aggregates anew beside the live ones and compare them.
create table usage_rebuild (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    source text not null check (source in ('archive', 'topic')),
    state text not null check (state in ('waiting', 'running', 'equal', 'different', 'failed')),
    records_read bigint not null default 0,
    records_expected bigint not null default 0,
    compared jsonb,
    error text,
    requested_at timestamptz not null,
    worked_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, mode, id)
);
create index usage_rebuild_open on usage_rebuild (requested_at) where state in ('waiting', 'running');
select isolate('usage_rebuild');
select open_to_maintenance('usage_rebuild');
