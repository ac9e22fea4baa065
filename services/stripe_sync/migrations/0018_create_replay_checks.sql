-- migrate:up

-- What a replay would have fetched, had it not been a trial: each object once per replay, and the
-- fields in which Stripe's latest differs from the mirror.
create table replay_check (
    tenant_id uuid not null,
    mode text not null,
    replay_id text not null,
    account text not null,
    object_type text not null,
    object_id text not null,
    state text not null default 'pending'
        check (state in ('pending', 'same', 'different', 'failed')),
    changes jsonb not null default '{}',
    attempts integer not null default 0,
    next_try_at timestamptz not null default '-infinity',
    last_error text,
    entered_at timestamptz not null,
    primary key (tenant_id, mode, replay_id, account, object_type, object_id)
);
create index replay_check_due on replay_check (account, mode, next_try_at) where state = 'pending';
create index replay_check_old on replay_check (entered_at);
create index replay_check_replay on replay_check (replay_id, mode);
select isolate('replay_check');
select open_to_maintenance('replay_check');
