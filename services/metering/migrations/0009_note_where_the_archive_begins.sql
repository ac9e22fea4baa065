-- migrate:up

-- Where the archive of a partition begins: what came in before, if anything did, is not in it. Of places
-- that are there already the first file says so. (The owner sees all rows for this moment only.)
alter table archive_place add column first_offset bigint;
alter table archived_file no force row level security;
update archive_place p set first_offset = coalesce(
    (select min(f.first_offset) from archived_file f where f.partition = p.partition),
    p.next_offset);
alter table archived_file force row level security;
