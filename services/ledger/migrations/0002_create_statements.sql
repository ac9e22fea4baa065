-- migrate:up

-- Statements of Stripe accounts, listed afresh by stripe_sync. A statement is `complete` when all of
-- its parts are here and its digest holds, `contradictory` when all are here and something does not.
create table statement (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    account text not null,
    listed_from timestamptz not null,
    listed_to timestamptz not null,
    state text not null default 'requested'
        check (state in ('requested', 'complete', 'contradictory', 'failed')),
    requested_by text,
    requested_at timestamptz not null,
    listed_at timestamptz,
    parts integer,
    line_count integer,
    payout_count integer,
    digest text,
    balances jsonb not null default '[]',
    error text,
    primary key (tenant_id, mode, id)
);
create index statement_newest on statement (tenant_id, mode, account, id);
select isolate('statement');

create table statement_part (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    part integer not null check (part > 0),
    parts integer not null,
    line_count integer not null,
    payout_count integer not null,
    digest text not null,
    primary key (tenant_id, mode, statement_id, part),
    foreign key (tenant_id, mode, statement_id) references statement (tenant_id, mode, id)
);
select isolate('statement_part');

create table statement_line (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    part integer not null,
    position integer not null,
    stripe_balance_transaction_id text not null,
    kind text not null,
    source_id text,
    amount_minor bigint not null,
    fee_minor bigint not null,
    net_minor bigint not null,
    currency text not null,
    created_at timestamptz not null,
    available_at timestamptz not null,
    payout_id text,
    primary key (tenant_id, mode, statement_id, part, position),
    foreign key (tenant_id, mode, statement_id, part)
        references statement_part (tenant_id, mode, statement_id, part)
);
create index statement_line_transaction
    on statement_line (tenant_id, mode, statement_id, stripe_balance_transaction_id);
select isolate('statement_line');

create table statement_payout (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    part integer not null,
    position integer not null,
    stripe_payout_id text not null,
    stripe_balance_transaction_id text,
    amount_minor bigint not null,
    currency text not null,
    status text not null,
    arrival_on date not null,
    primary key (tenant_id, mode, statement_id, part, position),
    foreign key (tenant_id, mode, statement_id, part)
        references statement_part (tenant_id, mode, statement_id, part)
);
select isolate('statement_payout');
revoke update, delete on statement_part, statement_line, statement_payout from sluice_ledger;
