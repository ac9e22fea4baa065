-- migrate:up

-- Lines that were invoiced for a time to come: what of them is revenue, and from when to when it is
-- earned. A credit note or a void makes the next revision, which begins again at the first month and
-- books the differences.
create table recognition (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    line_id uuid not null,
    invoice_id uuid not null,
    kind text not null check (kind in ('flat', 'proration')),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    amount_minor bigint not null,
    invoiced_at timestamptz not null,
    first_day date not null,
    until_day date not null,
    revision integer not null default 0 check (revision >= 0),
    not_before timestamptz not null,
    next_month date,
    due_at timestamptz,
    primary key (tenant_id, mode, book, line_id),
    check (first_day < until_day),
    check ((next_month is null) = (due_at is null))
);
-- What is due by the clock, and what is due of a tenant whose clock is ahead.
create index recognition_due on recognition (due_at) where due_at is not null;
create index recognition_due_of_tenant on recognition (tenant_id, mode, due_at)
    where due_at is not null;
-- What is earned in some months.
create index recognition_days on recognition (tenant_id, mode, book, until_day, first_day);
select isolate_by_book('recognition');
revoke delete on recognition from sluice_ledger;

-- What was told of each month of a line, by revision.
create table recognized_month (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    line_id uuid not null,
    month date not null check (extract(day from month) = 1),
    revision integer not null check (revision >= 0),
    amount_minor bigint not null,
    primary key (tenant_id, mode, book, line_id, month, revision)
);
select isolate_by_book('recognized_month');
revoke update, delete on recognized_month from sluice_ledger;
