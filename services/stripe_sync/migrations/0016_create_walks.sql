-- migrate:up

-- Ids of Stripe's events that were taken in, so that those that never came are known. Nothing else,
-- and of an account: on the platform's the events of many tenants meet.
create table taken_event (
    account text not null,
    mode text not null,
    stripe_event_id text not null,
    created_at timestamptz not null,
    primary key (account, mode, stripe_event_id)
);
create index taken_event_old on taken_event (created_at);

-- Events that Stripe's list had and we did not: each told once.
create table found_event (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    stripe_event_id text not null,
    created_at timestamptz not null,
    primary key (tenant_id, mode, account, stripe_event_id)
);
select isolate('found_event');
select open_to_maintenance('found_event');

-- How far a list at Stripe was read. `after_id` is where the run under way goes on; `done_to` is when
-- the last run began that read the whole list. Of an account, not of a tenant.
create table walk (
    account text not null,
    mode text not null,
    step text not null,
    enrolled_at timestamptz not null,
    next_at timestamptz not null,
    started_at timestamptz,
    after_id text,
    done_to timestamptz,
    listed bigint not null default 0,
    counted bigint not null default 0,
    counted_before bigint not null default 0,
    attempts integer not null default 0,
    last_error text,
    primary key (account, mode, step)
);
create index walk_due on walk (next_at);

-- Objects that a run saw, so that those it did not see are known at its end.
create table walked_object (
    account text not null,
    mode text not null,
    step text not null,
    object_id text not null,
    primary key (account, mode, step, object_id)
);

-- Whole accounts listed afresh, because somebody asked for it or too much was missed.
create table resync (
    tenant_id uuid not null,
    mode text not null,
    resync_id uuid not null,
    account text not null,
    state text not null default 'running' check (state in ('running', 'done')),
    requested_by text not null,
    requested_at timestamptz not null,
    ended_at timestamptz,
    listed bigint not null default 0,
    marked bigint not null default 0,
    primary key (tenant_id, mode, resync_id)
);
create unique index resync_running on resync (tenant_id, mode, account) where state = 'running';
select isolate('resync');
select open_to_maintenance('resync');

-- Comparing with the mirror reads over all tenants of an account, and writes nothing.
grant select on walk, walked_object, stripe_object to sluice_stripe_sync_maintenance;
create policy comparing on stripe_object for select to sluice_stripe_sync_maintenance using (true);
-- squawk-ignore require-concurrent-index-creation
create index stripe_object_account on stripe_object (account, mode, object_type, object_id);
-- squawk-ignore require-concurrent-index-creation
create index seen_connection_account on seen_connection (mode, (state ->> 'account_id'));
