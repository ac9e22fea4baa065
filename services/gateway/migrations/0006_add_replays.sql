-- migrate:up

-- Replays: what was asked for, and how far it has come. Progress moves in the commit that publishes.
create table webhook_replay (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    id uuid not null,
    every_tenant boolean not null,
    event_ids uuid[],
    event_type text,
    object_id text,
    received_from timestamptz,
    received_to timestamptz,
    dry_run boolean not null,
    actor text not null,
    state text not null check (state in ('running', 'done', 'canceled')),
    matched bigint not null check (matched >= 0),
    replayed bigint not null default 0,
    reached_at timestamptz,
    reached_id uuid,
    started_at timestamptz not null,
    finished_at timestamptz,
    primary key (tenant_id, mode, id)
);
create unique index webhook_replay_running on webhook_replay (tenant_id, mode)
    where state = 'running';
create index webhook_replay_started on webhook_replay (tenant_id, mode, started_at, id);
select isolate('webhook_replay');
select open_to_maintenance('webhook_replay');
revoke delete on webhook_replay from sluice_gateway;
