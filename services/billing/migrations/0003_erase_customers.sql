-- migrate:up

-- When a customer was erased; what it bought and paid stays.
alter table customer add column erased_at timestamptz;
