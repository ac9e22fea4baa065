-- migrate:up

-- Of a percentile which one; of a level over time the unit of that time.
alter table meter add column percentile numeric check (percentile > 0 and percentile < 100),
    add column time_unit text check (time_unit in ('second', 'minute', 'hour', 'day'));
-- squawk-ignore ban-drop-constraint
alter table meter drop constraint meter_aggregation_check;
alter table meter add constraint meter_aggregation_check check (aggregation in (
    'count', 'sum', 'min', 'max', 'avg', 'unique_count', 'latest', 'percentile',
    'time_weighted_sum')) not valid;
alter table meter add constraint meter_has_its_parameter check (
    (aggregation = 'percentile') = (percentile is not null)
    and (aggregation = 'time_weighted_sum') = (time_unit is not null)) not valid;

-- When the first level of a minute was told: until then the one before it holds.
alter table usage_minute add column first_at timestamptz;

-- How often each value of a percentile came, to three significant digits: percentiles over any interval
-- are read from sums of these, and a void takes one back.
create table usage_rank (
    tenant_id uuid not null,
    mode text not null,
    series_id uuid not null,
    minute timestamptz not null,
    value numeric not null,
    event_count bigint not null,
    primary key (tenant_id, mode, series_id, minute, value)
);
select isolate('usage_rank');
