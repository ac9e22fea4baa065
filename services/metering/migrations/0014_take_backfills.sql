-- migrate:up

-- Usage of before the window, told as one job. `position` is how far its events are published; `barrier`
-- holds the end of each partition of usage.events then: the job is done when all that is counted.
create table usage_backfill (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    state text not null default 'open' check (state in (
        'open', 'comparing', 'publishing', 'counting', 'done', 'dropped')),
    reason text not null,
    actor text not null,
    events integer not null default 0,
    known integer not null default 0,
    published integer not null default 0,
    barrier jsonb,
    created_at timestamptz not null,
    worked_at timestamptz not null,
    ended_at timestamptz,
    primary key (tenant_id, mode, id)
);
create index usage_backfill_open on usage_backfill (worked_at) where ended_at is null;
select isolate('usage_backfill');
select open_to_maintenance('usage_backfill');

-- Its events, until they are published or found to be known.
create table usage_backfill_event (
    tenant_id uuid not null,
    mode text not null,
    backfill_id uuid not null,
    id_hash bytea not null,
    payload_hash bytea not null,
    source text not null,
    event_id text not null,
    value bytea not null,
    primary key (tenant_id, mode, backfill_id, id_hash),
    foreign key (tenant_id, mode, backfill_id) references usage_backfill (tenant_id, mode, id)
);
select isolate('usage_backfill_event');
