-- migrate:up

-- The day of a forecast may be that on which credit is used up, which is no limit of the plan's.
alter table usage_forecast add column limit_hit_by text check (limit_hit_by in ('plan', 'credit'));
