-- migrate:up

-- Of whom credit bounds the use of which meters. `since`: what was used from then on is on no invoice yet;
-- null while nothing is bounded. `looked_at`: the latest business time that credit was looked at for.
create table prepaid (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    meters text[] not null,
    since timestamptz,
    looked_at timestamptz not null,
    primary key (tenant_id, mode, customer_id),
    foreign key (tenant_id, mode, customer_id) references customer (tenant_id, mode, id)
);
select isolate('prepaid');
revoke delete on prepaid from sluice_billing;

-- What metering was told last of each customer and meter; a null amount bounds nothing.
create table credit_limit (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    meter text not null,
    version integer not null check (version > 0),
    since timestamptz not null,
    amount numeric check (amount >= 0),
    primary key (tenant_id, mode, customer_id, meter),
    foreign key (tenant_id, mode, customer_id) references prepaid (tenant_id, mode, customer_id)
);
select isolate('credit_limit');
revoke delete on credit_limit from sluice_billing;
