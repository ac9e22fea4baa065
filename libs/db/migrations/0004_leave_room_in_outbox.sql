-- migrate:up

-- A row is changed twice soon after it was written: numbered, then sent. With room for the new row on
-- the page of the old one, its number touches no index.
alter table outbox set (fillfactor = 50);
