-- migrate:up

-- Whether the archive held all that was counted when a backfill was compared with it; null until then.
alter table usage_backfill add column archive_complete boolean;
