-- migrate:up

-- Since when the connection has the account that it has now, by the way it has now. What was seen of
-- another account before (its last webhook, above all) says nothing of this one.
alter table stripe_connection add column account_since timestamptz;
update stripe_connection set account_since = connected_at;
