-- migrate:up

-- What a tenant calls a customer of its own, and its own words on it.
alter table customer add column key text;
alter table customer add column metadata jsonb not null default '{}';
-- A tenant has few customers before this and the table stays readable meanwhile.
-- squawk-ignore require-concurrent-index-creation
create unique index customer_key on customer (tenant_id, mode, key) where key is not null;
