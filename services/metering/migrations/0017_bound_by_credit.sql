-- migrate:up

-- What a customer's credit still pays for of a meter, counted from `since` on, as billing told it last;
-- null: credit does not bound it any more.
create table credit_limit (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    meter text not null,
    version integer not null,
    billed_by text not null,
    since timestamptz not null,
    amount numeric check (amount >= 0),
    primary key (tenant_id, mode, customer_id, meter)
);
select isolate('credit_limit');
