-- migrate:up

-- A request that was sent may have had its effect, whatever is heard later; one that was not has none.
-- Of those entered before this nobody knows, so they count as sent.
alter table payment_request add column sent boolean not null default true;
alter table payment_request alter column sent set default false;
comment on column payment_request.sent is 'Stripe may have received it: set just before the first try.';
