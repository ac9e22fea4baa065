-- migrate:up

-- Customers that were erased: what is recorded of them later has nothing of the person either.
create table erased_customer (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    primary key (tenant_id, mode, customer_id)
);
select isolate('erased_customer');
revoke update, delete on erased_customer from sluice_stripe_sync;

create function forget_receipt() returns trigger language plpgsql as $$
begin
    if exists (select from erased_customer e where e.tenant_id = new.tenant_id
            and e.mode = new.mode and e.customer_id = new.customer_id) then
        new.receipt_email := null;
        new.receipt_url := null;
    end if;
    return new;
end $$;
do $$
begin
    execute format('alter function forget_receipt() set search_path = %I, pg_temp', current_schema());
end $$;
create trigger payment_of_erased_customer before insert or update on payment
    for each row execute function forget_receipt();

-- The mirror keeps nothing of people any more, and what it has goes. The owner sees all rows for this
-- moment only.
alter table stripe_object no force row level security;
update stripe_object set raw = raw - array['address', 'billing_details', 'customer_address',
    'customer_details', 'customer_email', 'customer_name', 'customer_phone', 'customer_shipping',
    'customer_tax_ids', 'email', 'individual_name', 'business_name', 'phone', 'receipt_email',
    'shipping'];
update stripe_object
set raw = (raw #- '{metadata,billing_email}' #- '{metadata,name}') - 'name' - 'description'
where object_type = 'customer';
alter table stripe_object force row level security;
