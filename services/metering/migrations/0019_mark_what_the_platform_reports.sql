-- migrate:up

-- From this moment on what the platform reports is marked, and has its ids apart from the tenant's: soon
-- before the end of a day, so that ids entered on it or before may be of either. Where usage came in
-- already it is tomorrow, when no service of the version before runs any more: that would take the same
-- event for another one. (The files are looked at, not the rows: those are hidden from every role.)
create table platform_marks (
    since timestamptz not null
);
revoke insert, update, delete on platform_marks from sluice_metering;
select open_to_maintenance('platform_marks');
insert into platform_marks (since)
select case when exists (
    select from pg_inherits i where i.inhparent = 'usage_event_id'::regclass
    and pg_relation_size(i.inhrelid) > 0)
then date_trunc('day', now(), 'UTC') + interval '47:55:00' else 'epoch'::timestamptz end;

-- Who holds: what the platform held for a tenant only the platform settles or releases.
alter table reservation add column by_platform boolean not null default false;
