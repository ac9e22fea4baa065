-- migrate:up

-- Money recorded with the first moment of the calendar, which is what a time never set looks like: it
-- was kept as an infinity that nobody could read again, so the payment was never told of. It counts from
-- when it was recorded. The owner sees all rows for this moment only.
alter table payment no force row level security;
update payment set paid_at = created_at where account = 'outside' and not isfinite(paid_at);
alter table payment force row level security;
