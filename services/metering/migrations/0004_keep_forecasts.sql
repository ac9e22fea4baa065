-- migrate:up

-- What a meter of a customer is expected to come to by the end of the current period. A row without
-- `made_at` is wanted and not made yet.
create table usage_forecast (
    tenant_id uuid not null,
    mode text not null,
    meter_id uuid not null,
    customer text not null,
    due_at timestamptz not null,
    made_at timestamptz,
    period_from timestamptz,
    period_to timestamptz,
    used numeric,
    expected numeric,
    low numeric,
    high numeric,
    method text,
    limit_amount numeric,
    limit_kind text,
    limit_hit_on date,
    primary key (tenant_id, mode, meter_id, customer)
);
create index usage_forecast_due on usage_forecast (due_at);
select isolate('usage_forecast');
select open_to_maintenance('usage_forecast');
