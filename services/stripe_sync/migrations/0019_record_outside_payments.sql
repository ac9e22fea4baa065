-- migrate:up

-- Payments that never touched Stripe stand beside the others, under the account `outside`; the same
-- reference of the same customer is recorded once.
-- squawk-ignore require-concurrent-index-creation
create unique index payment_outside on payment (tenant_id, mode, customer_id, description)
    where account = 'outside';

-- squawk-ignore ban-drop-constraint
alter table payment_request drop constraint payment_request_kind_check;
alter table payment_request add constraint payment_request_kind_check check (kind in (
    'intent', 'confirm', 'capture', 'cancel', 'refund', 'outside')) not valid;
