-- migrate:up

-- Meters that some plan of their owner limits: only their usage is looked at for thresholds.
create table limited_meter (
    tenant_id uuid not null,
    mode text not null,
    meter text not null,
    primary key (tenant_id, mode, meter)
);

-- Every period that a subscription was in, with what held in it at last: usage that comes late is
-- held against the limits of its own period.
create table subscription_period (
    tenant_id uuid not null,
    mode text not null,
    subscription_id uuid not null,
    period_from timestamptz not null,
    period_to timestamptz not null,
    version integer not null,
    customer_id uuid not null,
    billed_by text not null,
    plan_version_id uuid not null,
    status text not null,
    primary key (tenant_id, mode, subscription_id, period_from)
);
create index subscription_period_customer
    on subscription_period (tenant_id, mode, customer_id, period_to);

-- The owner sees all rows for this moment only.
alter table plan_version no force row level security;
alter table subscription no force row level security;
insert into limited_meter (tenant_id, mode, meter)
select distinct p.tenant_id, p.mode, l ->> 'meter'
from plan_version p cross join lateral jsonb_array_elements(p.limits) l;
insert into subscription_period (tenant_id, mode, subscription_id, period_from, period_to, version,
    customer_id, billed_by, plan_version_id, status)
select tenant_id, mode, id, period_from, period_to, version, customer_id, billed_by,
    plan_version_id, status
from subscription where period_from is not null and period_to is not null;
alter table plan_version force row level security;
alter table subscription force row level security;
select isolate('limited_meter');
select isolate('subscription_period');

-- Customers whose usage is to be held against their limits again. `marks` tells a job that usage was
-- counted while it looked; `position` is the order in which they are looked at.
create table limit_mark (
    tenant_id uuid not null,
    mode text not null,
    customer text not null,
    position bigint generated always as identity,
    marks integer not null default 1,
    since timestamptz not null,
    until timestamptz not null,
    primary key (tenant_id, mode, customer)
);
select isolate('limit_mark');
select open_to_maintenance('limit_mark');

-- What was told: once for each threshold of a limit and period, and for going beyond it.
create table limit_crossing (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    meter text not null,
    period_from timestamptz not null,
    limit_amount numeric not null,
    percent integer not null check (percent > 0),
    used numeric not null,
    crossed_at timestamptz not null,
    primary key (tenant_id, mode, customer_id, meter, period_from, limit_amount, percent)
);
select isolate('limit_crossing');
revoke update, delete on limit_crossing from sluice_metering;

create table limit_overrun (
    tenant_id uuid not null,
    mode text not null,
    customer_id uuid not null,
    meter text not null,
    period_from timestamptz not null,
    limit_amount numeric not null,
    id uuid not null,
    meter_id uuid not null,
    subscription_id uuid not null,
    period_to timestamptz not null,
    kind text not null check (kind in ('soft', 'hard')),
    exceeded_at timestamptz not null,
    primary key (tenant_id, mode, customer_id, meter, period_from, limit_amount),
    unique (tenant_id, mode, id)
);
select isolate('limit_overrun');
revoke update, delete on limit_overrun from sluice_metering;

-- Events that came under an id of another content, which had been counted: all are numbered, the
-- first of a day are kept. `next_offset` is where the count of a partition stands, so that reading
-- the topic again counts nothing twice.
create table usage_conflict_day (
    tenant_id uuid not null,
    mode text not null,
    received_day date not null,
    partition integer not null,
    conflict_count bigint not null,
    next_offset bigint not null,
    primary key (tenant_id, mode, received_day, partition)
);
select isolate('usage_conflict_day');
select open_to_maintenance('usage_conflict_day');

create table usage_conflict (
    tenant_id uuid not null,
    mode text not null,
    received_day date not null,
    partition integer not null,
    log_offset bigint not null,
    received_at timestamptz not null,
    source text not null,
    event_id text not null,
    event_type text not null,
    customer text not null,
    primary key (tenant_id, mode, received_day, partition, log_offset)
);
select isolate('usage_conflict');
select open_to_maintenance('usage_conflict');
