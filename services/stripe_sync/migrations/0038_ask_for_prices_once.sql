-- migrate:up

-- A price is entered before Stripe is asked for it, so that a late try knows that there was an earlier
-- one, and looks for what that made. It stands at Stripe once both ids are there.
-- squawk-ignore ban-drop-not-null
alter table plan_price alter column stripe_product_id drop not null;
-- squawk-ignore ban-drop-not-null
alter table plan_price alter column stripe_price_id drop not null;
alter table plan_price add column asked_at timestamptz not null default now();
comment on column plan_price.asked_at is 'When Stripe was asked for it first.';
