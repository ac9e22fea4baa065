-- migrate:up

-- When a customer was entered here, by the clock here: `entered_at` is when billing told it, which
-- may be long before. Told later once more, its archive is gone through from the start.
alter table erased_customer add column begun_at timestamptz not null default now();
comment on column erased_customer.entered_at is 'When billing told it.';
comment on column erased_customer.begun_at is
    'When it was entered here: what was being kept then is kept soon after.';
grant update (entered_at, begun_at) on erased_customer to sluice_gateway;
