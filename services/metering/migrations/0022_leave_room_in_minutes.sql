-- migrate:up

-- A minute's aggregates are added to many times while it lasts. With room beside them that stays on the
-- page, and no index is written again; without it a page that is full sends each version elsewhere.
alter table usage_minute set (fillfactor = 70);
