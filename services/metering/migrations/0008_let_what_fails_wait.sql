-- migrate:up

-- A period whose answer failed: the others have their turn first.
alter table closure add column tried_at timestamptz;

-- How often a rebuild was begun: one that ends its worker each time ends too.
alter table usage_rebuild add column attempts integer not null default 0;
