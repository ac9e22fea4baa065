-- migrate:up

-- What was told of a payment when it was paid, so that it can be told again in the same words, whatever
-- was learned of it since. Rows from before were told by their columns.
alter table payment add column told jsonb;
