-- migrate:up

-- Differences between Stripe and the books, one row each: a run that comes upon one again finds its
-- row. A break is `open`, or `proposed` where there is a way to repair it, until somebody takes the
-- proposal (`accepted`) or lets it be (`ignored`), or a later run does not find it (`resolved`).
create table reconciliation_break (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    id uuid not null,
    account text not null,
    kind text not null check (kind in ('missing_in_ledger', 'missing_at_stripe', 'amount', 'currency',
        'duplicate', 'late_fee', 'unknown_type', 'timing', 'balance')),
    reference text not null,
    state text not null check (state in ('open', 'proposed', 'accepted', 'resolved', 'ignored')),
    currency text not null,
    stripe_minor bigint not null,
    ledger_minor bigint not null,
    occurred_at timestamptz not null,
    found_at timestamptz not null,
    last_found_at timestamptz not null,
    reconciliation_id uuid not null,
    times_found integer not null default 1,
    owner text,
    reason text,
    accepted_at timestamptz,
    resolved_at timestamptz,
    transactions text[] not null default '{}',
    entries uuid[] not null default '{}',
    proposal jsonb,
    primary key (tenant_id, mode, id),
    unique (tenant_id, mode, account, kind, reference)
);
create index reconciliation_break_newest on reconciliation_break (mode, id);
create index reconciliation_break_unsettled on reconciliation_break (tenant_id, mode, account, reference)
    where state <> 'resolved';
select isolate('reconciliation_break');
select open_to_maintenance('reconciliation_break');

-- What happened to a break, for ever.
create table reconciliation_break_change (
    tenant_id uuid not null,
    mode text not null,
    break_id uuid not null,
    seq integer not null check (seq > 0),
    changed_at timestamptz not null,
    change text not null check (change in ('found', 'found_again', 'changed', 'accepted', 'ignored',
        'assigned', 'resolved')),
    actor text,
    detail text,
    primary key (tenant_id, mode, break_id, seq),
    foreign key (tenant_id, mode, break_id) references reconciliation_break (tenant_id, mode, id)
);
select isolate('reconciliation_break_change');
select open_to_maintenance('reconciliation_break_change');
revoke update, delete on reconciliation_break_change from sluice_ledger;
