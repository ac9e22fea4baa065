-- migrate:up

-- A list of balance transactions that is too long for one run: how far down it was read, and up to
-- when everything is listed once its end is reached.
alter table transaction_cursor
    add column pending_listed_to timestamptz,
    add column pending_read_to text;

-- Of the pages that sell a plan one is open at a time, or a customer might pay for two.
alter table checkout_session add column open boolean not null default false;
-- squawk-ignore require-concurrent-index-creation
create unique index checkout_session_open
    on checkout_session (tenant_id, mode, account, customer_id) where open;

-- What is kept of balance transactions has no free words, and what is kept of charges does not lead
-- to the payer. The owner sees and changes all rows for this moment only.
alter table balance_transaction no force row level security;
update balance_transaction set raw = raw - 'description' where raw ? 'description';
alter table balance_transaction force row level security;

alter table stripe_object no force row level security;
update stripe_object set raw = raw - 'receipt_url'
where object_type = 'charge' and raw ? 'receipt_url';
update stripe_object set raw = jsonb_set(raw, '{payment_method_details}', coalesce((
    select jsonb_object_agg(d.key, case when jsonb_typeof(d.value) = 'object'
        then d.value - array['payer_email', 'payer_name', 'verified_name'] else d.value end)
    from jsonb_each(raw -> 'payment_method_details') d), '{}'))
where object_type = 'charge' and jsonb_typeof(raw -> 'payment_method_details') = 'object';
alter table stripe_object force row level security;
