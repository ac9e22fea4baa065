-- migrate:up

-- A payment is a payment intent, or a charge that has none. Attempts that failed are no rows: each
-- was told as a fact of its charge. The owner sees all rows for this moment only.
alter table payment no force row level security;
with ranked as (
    select tenant_id, mode, payment_id, row_number() over (
        partition by tenant_id, mode, account, stripe_payment_intent_id
        order by paid_at is null, created_at desc, payment_id desc) as place
    from payment where stripe_payment_intent_id is not null)
delete from payment p using ranked r
where r.place > 1 and p.tenant_id = r.tenant_id and p.mode = r.mode
    and p.payment_id = r.payment_id;

-- squawk-ignore ban-drop-constraint
alter table payment drop constraint payment_tenant_id_mode_account_stripe_charge_id_key;
-- squawk-ignore ban-drop-constraint
alter table payment drop constraint payment_status_check;
alter table payment add constraint payment_status_check check (status in (
    'UNKNOWN', 'PENDING', 'REQUIRES_ACTION', 'PROCESSING', 'AUTHORIZED', 'COMPLETED', 'FAILED',
    'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED')) not valid;
-- squawk-ignore ban-drop-not-null
alter table payment alter column stripe_charge_id drop not null;
alter table payment
    add column disputed boolean not null default false,
    add column confirmation_url text,
    add column description text,
    add column origin_known boolean not null default false;
comment on column payment.origin_known is
    'Stripe was asked which invoice or payment link the payment belongs to.';
update payment set origin_known = true where paid_at is not null or stripe_invoice_id is not null;
alter table payment force row level security;

-- Rows that Stripe has not answered yet have neither id, and are told apart by their own.
-- squawk-ignore require-concurrent-index-creation
create unique index payment_of_stripe on payment
    (tenant_id, mode, account, coalesce(stripe_payment_intent_id, stripe_charge_id));
-- squawk-ignore require-concurrent-index-creation
create index payment_of_charge on payment (tenant_id, mode, account, stripe_charge_id)
    where stripe_charge_id is not null;

create or replace function forget_receipt() returns trigger language plpgsql as $$
begin
    if exists (select from erased_customer e where e.tenant_id = new.tenant_id
            and e.mode = new.mode and e.customer_id = new.customer_id) then
        new.receipt_email := null;
        new.receipt_url := null;
        new.description := null;
        new.confirmation_url := null;
    end if;
    return new;
end $$;
do $$
begin
    execute format('alter function forget_receipt() set search_path = %I, pg_temp', current_schema());
end $$;

-- Whose objects these are, of many at once; the same look-up as find_owner.
create function find_owners(wanted_account text, wanted_mode text, wanted_ids text[]) returns jsonb
language plpgsql stable security definer as $$
begin
    return (
        select coalesce(jsonb_object_agg(o.object_id, jsonb_build_object(
            'tenant_id', o.tenant_id, 'customer_id', o.customer_id)), '{}')
        from object_owner o
        where o.account = wanted_account and o.mode = wanted_mode
            and o.object_id = any (wanted_ids));
end $$;
do $$
begin
    execute format('alter function find_owners(text, text, text[]) set search_path = %I, pg_temp',
        current_schema());
end $$;
alter function find_owners(text, text, text[]) owner to sluice_lookup;

-- Whether a charge is booked is asked for each payment of an invoice.
-- squawk-ignore require-concurrent-index-creation
create index balance_transaction_source on balance_transaction
    (tenant_id, mode, account, source_id);
