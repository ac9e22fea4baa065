-- migrate:up

-- The archive by month of receipt, so that what is too old goes a month at a time. The ids already
-- taken stay in a table of their own that no month splits: the same event is refused for ever.
set local statement_timeout = '1h';

-- squawk-ignore renaming-table
alter table webhook_event rename to webhook_event_whole;
-- squawk-ignore renaming-object
alter table webhook_event_whole rename constraint webhook_event_pkey to webhook_event_whole_pkey;
-- squawk-ignore require-concurrent-index-deletion
drop index webhook_event_received, webhook_event_received_anywhere, webhook_event_waiting;

-- The key is led by the id, by which one event is read for a tenant and for the platform's staff;
-- everything else is read by time.
create table webhook_event (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    id uuid not null,
    account text not null,
    stripe_event_id text not null,
    event_type text not null,
    api_version text,
    event_created_at timestamptz not null,
    object_type text,
    object_id text,
    assignment text not null check (assignment in (
        'customer', 'metadata', 'account', 'operator', 'unassigned')),
    quarantine_reason text,
    payload bytea not null,
    payload_bytes integer not null,
    headers jsonb not null,
    received_at timestamptz not null,
    primary key (id, tenant_id, mode, received_at)
) partition by range (received_at);
create index webhook_event_received on webhook_event (tenant_id, mode, received_at, id);
create index webhook_event_received_anywhere on webhook_event (mode, received_at, id);
create index webhook_event_quarantined on webhook_event (quarantine_reason, account, mode)
    where quarantine_reason is not null;

-- Read directly, a partition would not be held by the policies of the whole: nobody may read one.
create function close_archive_part(part regclass) returns void
language plpgsql set search_path = gateway, pg_temp as $$
begin
    perform isolate(part);
    execute format('revoke all on %s from sluice_gateway', part);
end $$;

-- What is of no month that was made: nothing is refused for want of a partition.
create table webhook_event_rest partition of webhook_event default;
select close_archive_part('webhook_event_rest');

-- Only the owner of tables can make and drop partitions; it does exactly this for the service's
-- jobs. A month of which the rest holds something already stays there.
create function make_archive_months(first timestamptz, months integer) returns integer
language plpgsql security definer
set search_path = gateway, pg_temp set timezone = 'UTC' set lock_timeout = '2s' as $$
declare
    begins timestamptz := date_trunc('month', first);
    part text;
    made integer := 0;
begin
    if months not between 1 and 1200 then
        raise exception 'between 1 and 1200 months can be made, not %', months;
    end if;
    perform pg_advisory_xact_lock(hashtext('gateway.archive_months'));
    for number in 1..months loop
        part := 'webhook_event_' || to_char(begins, 'YYYY_MM');
        if to_regclass(part) is null then
            begin
                execute format('create table %I partition of webhook_event '
                    'for values from (%L) to (%L)', part, begins, begins + interval '1 month');
                perform close_archive_part(part::regclass);
                made := made + 1;
            exception when check_violation then
                raise warning 'some of % stands in the rest of the archive', part;
            end;
        end if;
        begins := begins + interval '1 month';
    end loop;
    return made;
end $$;

create function drop_archive_months(cutoff timestamptz) returns text[]
language plpgsql security definer
set search_path = gateway, pg_temp set timezone = 'UTC' set lock_timeout = '2s' as $$
declare
    part text;
    dropped text[] := '{}';
begin
    if cutoff > date_trunc('month', now()) then
        raise exception 'the running month is kept';
    end if;
    perform pg_advisory_xact_lock(hashtext('gateway.archive_months'));
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'webhook_event'::regclass
            and c.relname ~ '^webhook_event_[0-9]{4}_[0-9]{2}$'
            and to_timestamp(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= cutoff
        order by 1
    loop
        execute format('alter table webhook_event detach partition %I', part);
        execute format('drop table %I', part);
        dropped := dropped || part;
    end loop;
    return dropped;
end $$;

revoke all on function make_archive_months(timestamptz, integer) from public;
revoke all on function drop_archive_months(timestamptz) from public;
revoke all on function close_archive_part(regclass) from public;
grant execute on function make_archive_months(timestamptz, integer) to sluice_gateway_maintenance;
grant execute on function drop_archive_months(timestamptz) to sluice_gateway_maintenance;

-- Forced row-level security holds the owner too, while it moves the rows.
alter table webhook_event_whole no force row level security;
alter table webhook_event_whole disable row level security;
do $$
declare
    oldest timestamptz := coalesce((select min(received_at) from webhook_event_whole), now());
begin
    -- A clock that was wrong once must not make a thousand tables: what is older is the rest's.
    oldest := date_trunc('month', greatest(least(oldest, now()), now() - interval '10 years'), 'UTC');
    perform make_archive_months(oldest, 4 + (12 * extract(year from age(now(), oldest))
        + extract(month from age(now(), oldest)))::integer);
end $$;
insert into webhook_event (tenant_id, mode, id, account, stripe_event_id, event_type, api_version,
    event_created_at, object_type, object_id, assignment, quarantine_reason, payload, payload_bytes,
    headers, received_at)
select tenant_id, mode, id, account, stripe_event_id, event_type, api_version, event_created_at,
    object_type, object_id, assignment, quarantine_reason, payload, payload_bytes, headers,
    received_at
from webhook_event_whole;
-- squawk-ignore ban-drop-table
drop table webhook_event_whole;

select isolate('webhook_event');
select open_to_maintenance('webhook_event');
revoke update, delete on webhook_event from sluice_gateway;
grant update (tenant_id, assignment, quarantine_reason, payload, payload_bytes) on webhook_event
    to sluice_gateway;
