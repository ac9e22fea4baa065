-- migrate:up

-- What finds money again that never touched Stripe is no description: it stays where the customer is
-- erased, so that the payment can still be told of, and only once. Where it is gone already the payment
-- stands for itself. The owner sees all rows for this moment only.
alter table payment add column outside_reference text;
comment on column payment.outside_reference is
    'Under the account `outside`: what whoever received the money finds it by.';
alter table payment no force row level security;
update payment set outside_reference = coalesce(description, payment_id::text)
where account = 'outside';
alter table payment force row level security;

-- squawk-ignore require-concurrent-index-deletion
drop index payment_outside;
-- squawk-ignore require-concurrent-index-creation
create unique index payment_outside on payment (tenant_id, mode, customer_id, outside_reference)
    where account = 'outside';
