-- migrate:up

-- When each Stripe account is compared with the books next.
create table reconciliation_schedule (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    account text not null,
    next_at timestamptz not null,
    primary key (tenant_id, mode, account)
);
create index reconciliation_schedule_due on reconciliation_schedule (next_at);
select isolate('reconciliation_schedule');
select open_to_maintenance('reconciliation_schedule');

-- One comparison of a Stripe account with the books. It waits for a statement (`listing`), gathers
-- the statement's `lines` and the `entries` of the books, has them `matching` by reference, and looks
-- at payouts and balances (`ending`). `position` says how far the step is, so that a run that was cut
-- short goes on. `unlisted` are sums by currency of what is booked and not to be expected in the
-- statement; `unexplained` of those balances that differ, to be compared by the next run.
create table reconciliation (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    id uuid not null,
    account text not null,
    listed_from timestamptz not null,
    listed_to timestamptz not null,
    statement_id uuid not null,
    state text not null default 'listing' check (state in
        ('listing', 'lines', 'entries', 'matching', 'ending', 'completed', 'failed')),
    position text not null default '',
    requested_by text,
    started_at timestamptz not null,
    ended_at timestamptz,
    error text,
    line_count integer not null default 0,
    entry_count integer not null default 0,
    matched_count integer not null default 0,
    waiting_count integer not null default 0,
    breaks_found integer not null default 0,
    breaks_resolved integer not null default 0,
    unlisted jsonb not null default '{}',
    balances jsonb not null default '[]',
    primary key (tenant_id, mode, id),
    foreign key (tenant_id, mode, statement_id) references statement (tenant_id, mode, id)
);
create unique index reconciliation_under_way on reconciliation (tenant_id, mode, account)
    where state not in ('completed', 'failed');
create index reconciliation_newest on reconciliation (tenant_id, mode, account, id);
create index reconciliation_to_do on reconciliation (id) where state not in ('completed', 'failed');
select isolate('reconciliation');
select open_to_maintenance('reconciliation');

-- Both sides of a run, for as long as it goes: what Stripe lists, and what the books hold of it. Items
-- of one payment, or of one other movement, have the same reference.
create table reconciliation_item (
    tenant_id uuid not null,
    mode text not null,
    reconciliation_id uuid not null,
    side text not null check (side in ('stripe', 'ledger')),
    item text not null,
    currency text not null,
    reference text not null,
    moved_minor bigint not null,
    suspense_minor bigint not null default 0,
    moved_at timestamptz not null,
    kind text,
    gross_minor bigint,
    fee_minor bigint,
    entry_tenant_id uuid,
    book text,
    source_key text,
    primary key (tenant_id, mode, reconciliation_id, side, item, currency),
    foreign key (tenant_id, mode, reconciliation_id) references reconciliation (tenant_id, mode, id)
);
create index reconciliation_item_reference
    on reconciliation_item (tenant_id, mode, reconciliation_id, reference);
select isolate('reconciliation_item');
select open_to_maintenance('reconciliation_item');

-- Movements that Stripe itself has listed, for ever: what is not in a later statement was there once.
create table listed_movement (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    account text not null,
    stripe_balance_transaction_id text not null,
    reference text not null,
    created_at timestamptz not null,
    primary key (tenant_id, mode, account, stripe_balance_transaction_id)
);
create index listed_movement_reference on listed_movement (tenant_id, mode, account, reference);
select isolate('listed_movement');
select open_to_maintenance('listed_movement');
