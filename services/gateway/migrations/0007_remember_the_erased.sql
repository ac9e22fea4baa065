-- migrate:up

-- Customers at Stripe that were erased here: what Stripe still sends of them is kept without the
-- person. Ids only.
create table erased_customer (
    tenant_id uuid not null,
    mode text not null,
    stripe_customer_id text not null,
    primary key (tenant_id, mode, stripe_customer_id)
);
select isolate('erased_customer');
revoke update, delete on erased_customer from sluice_gateway;
