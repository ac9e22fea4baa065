-- migrate:up

-- Idempotency keys that Stripe answered with a 500, which it repeats: how often.
create table burnt_key (
    tenant_id uuid not null,
    mode text not null,
    key text not null,
    times integer not null,
    primary key (tenant_id, mode, key)
);
select isolate('burnt_key');
