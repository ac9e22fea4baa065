-- migrate:up

-- Usage that is declared ahead. `every` is null for what happens once; the days of what recurs are those
-- of `time_zone`.
create table planned_usage (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    meter_id uuid not null,
    customer text not null,
    subject text,
    user_id text,
    quantity numeric not null check (quantity > 0),
    every text check (every in ('day', 'week', 'month')),
    time_zone text not null,
    hold_seconds integer not null check (hold_seconds > 0),
    note text not null,
    actor text not null,
    created_at timestamptz not null,
    canceled_at timestamptz,
    primary key (tenant_id, mode, id)
);
create index planned_usage_line on planned_usage (tenant_id, mode, meter_id, customer);
select isolate('planned_usage');

-- Each time that it happens, in business time. While it is `planned`, outcome and what follows say what is
-- foreseen; then they say what was decided, and of `deferred` what was decided last. `due_at` is when
-- it is looked at next: null when it never will be. An admitted one holds a reservation.
create table planned_occurrence (
    tenant_id uuid not null,
    mode text not null,
    planned_id uuid not null,
    number integer not null check (number > 0),
    at timestamptz not null,
    until timestamptz not null,
    state text not null default 'planned' check (state in (
        'planned', 'admitted', 'deferred', 'refused', 'canceled')),
    outcome text not null check (outcome in ('admitted', 'deferred', 'refused')),
    reason text,
    used numeric,
    limit_amount numeric,
    passes_at timestamptz,
    judged_at timestamptz not null,
    due_at timestamptz,
    reservation_id uuid,
    primary key (tenant_id, mode, planned_id, number),
    foreign key (tenant_id, mode, planned_id) references planned_usage (tenant_id, mode, id),
    foreign key (tenant_id, mode, reservation_id) references reservation (tenant_id, mode, id),
    check (at < until),
    check ((state in ('planned', 'deferred')) = (due_at is not null)),
    check ((state = 'admitted') = (reservation_id is not null))
);
create index planned_occurrence_due on planned_occurrence (due_at) where due_at is not null;
create index planned_occurrence_due_of on planned_occurrence (tenant_id, mode, due_at)
    where due_at is not null;
select isolate('planned_occurrence');
select open_to_maintenance('planned_occurrence');

-- What of `expected`, `low` and `high` is planned; the rest is the trend.
alter table usage_forecast add column planned numeric not null default 0;
