-- migrate:up

-- From here on the hash of a time-ordered id begins with its own time. Ids that are there already
-- stand under the former hash, and are looked for under it until the last of them is pruned. (The
-- files are looked at, not the rows: those are hidden from every role.)
create table former_ids (
    since date not null
);
revoke insert, update on former_ids from sluice_metering;
select open_to_maintenance('former_ids');
insert into former_ids (since)
select current_date where exists (
    select from pg_inherits i where i.inhparent = 'usage_event_id'::regclass
    and pg_relation_size(i.inhrelid) > 0);
