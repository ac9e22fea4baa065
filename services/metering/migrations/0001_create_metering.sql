-- migrate:up

-- What is measured. A meter never changes: prices and limits rely on what it means.
create table meter (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    key text not null,
    event_type text not null,
    aggregation text not null check (aggregation in (
        'count', 'sum', 'min', 'max', 'avg', 'unique_count', 'latest')),
    value_path text,
    group_by text[] not null default '{}',
    filters jsonb not null default '{}',
    created_at timestamptz not null,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, key)
);
select isolate('meter');
revoke update, delete on meter from sluice_metering;

-- The events already counted: what makes an event count once. Split by hash and never by time, so
-- that the same id collides on any day.
create table usage_event_id (
    tenant_id uuid not null,
    mode text not null,
    id_hash bytea not null,
    payload_hash bytea not null,
    received_day date not null,
    primary key (tenant_id, mode, id_hash)
) partition by hash (tenant_id, id_hash);
create index usage_event_id_received_day on usage_event_id using brin (received_day);
select isolate('usage_event_id');
select open_to_maintenance('usage_event_id');
do $$
declare
    part text;
begin
    for number in 0..15 loop
        part := format('usage_event_id_%s', lpad(number::text, 2, '0'));
        execute format('create table %I partition of usage_event_id '
            'for values with (modulus 16, remainder %s)', part, number);
        perform isolate(part::regclass);
    end loop;
end $$;

-- Who used what: everything that tells one row of aggregates from another but the minute. The id is
-- a hash of the rest, so no look-up is needed to write. An empty customer is the tenant itself.
create table usage_series (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    meter_id uuid not null,
    customer text not null,
    user_id text not null,
    group_values text[] not null,
    primary key (tenant_id, mode, id)
);
create index usage_series_meter on usage_series (tenant_id, mode, meter_id, customer);
select isolate('usage_series');

-- The aggregates. Columns that a meter's aggregation does not need are null.
create table usage_minute (
    tenant_id uuid not null,
    mode text not null,
    series_id uuid not null,
    minute timestamptz not null,
    event_count bigint not null,
    total numeric,
    minimum numeric,
    maximum numeric,
    latest numeric,
    latest_at timestamptz,
    latest_id bytea,
    primary key (tenant_id, mode, series_id, minute)
);
select isolate('usage_minute');

-- The different values of unique_count meters, exact over any interval.
create table usage_unique (
    tenant_id uuid not null,
    mode text not null,
    series_id uuid not null,
    minute timestamptz not null,
    value_hash bytea not null,
    primary key (tenant_id, mode, series_id, minute, value_hash)
);
select isolate('usage_unique');

-- When the last counted event of a tenant came in.
create table usage_progress (
    tenant_id uuid not null,
    mode text not null,
    received_at timestamptz not null,
    primary key (tenant_id, mode)
);
select isolate('usage_progress');

-- Periods that billing closed. `barrier` holds the end of each partition of usage.events when the
-- period was over: what lies before it belongs in the answer. A counted event of a closed period
-- makes it unsettled again.
create table closure (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    subscription_id uuid not null,
    customer_id uuid not null,
    meters text[] not null,
    period_from timestamptz not null,
    period_to timestamptz not null,
    due_at timestamptz not null,
    barrier jsonb,
    settled boolean not null default false,
    primary key (tenant_id, mode, id),
    check (period_from <= period_to)
);
create index closure_period on closure (tenant_id, mode, period_to);
create index closure_unsettled on closure (due_at) where not settled;
select isolate('closure');
select open_to_maintenance('closure');

-- The last answer to each closure and meter.
create table closure_usage (
    tenant_id uuid not null,
    mode text not null,
    closure_id uuid not null,
    meter text not null,
    revision integer not null check (revision > 0),
    quantity numeric not null,
    event_count bigint not null,
    primary key (tenant_id, mode, closure_id, meter),
    foreign key (tenant_id, mode, closure_id) references closure (tenant_id, mode, id)
);
select isolate('closure_usage');

-- What billing said about plans and who is on them: for limits and reports.
create table plan_version (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    key text not null,
    name text not null,
    limits jsonb not null,
    primary key (tenant_id, mode, id)
);
select isolate('plan_version');

create table subscription (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    version integer not null,
    customer_id uuid not null,
    billed_by text not null,
    plan_key text not null,
    plan_version_id uuid not null,
    status text not null,
    period_from timestamptz,
    period_to timestamptz,
    primary key (tenant_id, mode, id)
);
create index subscription_customer on subscription (tenant_id, mode, customer_id);
select isolate('subscription');
