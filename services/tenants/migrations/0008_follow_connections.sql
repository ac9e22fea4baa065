-- migrate:up

-- The event at Stripe by which the tenant last took its access back: it is followed once.
alter table stripe_connection add column revoked_by_event text;
