-- migrate:up

-- A customer's name, sealed under the key beside it; destroying the two is forgetting it. `name` is of
-- customers that were told of in the clear.
alter table known_customer add column personal bytea;
alter table known_customer add column wrapped bytea;

-- Dry runs that were canceled: what of them waits to be compared is not compared any more, whenever it
-- arrives. That of every tenant's events is the platform's.
create table canceled_replay (
    tenant_id uuid not null,
    mode text not null,
    replay_id text not null,
    canceled_at timestamptz not null,
    primary key (tenant_id, mode, replay_id)
);
select isolate('canceled_replay');
select open_to_maintenance('canceled_replay');
