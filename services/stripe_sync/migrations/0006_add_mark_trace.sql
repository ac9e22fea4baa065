-- migrate:up

-- The trace in which an object was last marked (W3C Trace Context), so that fetching it stands there.
alter table dirty_object add column trace jsonb not null default '{}';
