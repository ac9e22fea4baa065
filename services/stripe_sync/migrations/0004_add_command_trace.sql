-- migrate:up

-- The trace that a command came in with (W3C Trace Context), so that the call to Stripe stands in it.
alter table command add column trace jsonb not null default '{}';
