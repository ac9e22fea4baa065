-- migrate:up

-- A statement is listed in slices of time, from the oldest on, and each is kept when it is done: a try
-- that fails goes on from there. `listed_at` and `balances` are of the beginning, nearest to the end of
-- the time that is asked for; before it everything is null. `sent_parts` is how much of it was told.
alter table statement_request
    add column listed_at timestamptz,
    add column listed_upto timestamptz,
    add column slice_seconds bigint,
    add column balances jsonb,
    add column line_count integer not null default 0,
    add column payout_count integer not null default 0,
    add column digest text,
    add column sent_parts integer not null default 0;

-- Lines and payouts in their order, in the words of the contract, until all parts are told.
create table statement_entry (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    kind text not null check (kind in ('line', 'payout')),
    position integer not null,
    entry jsonb not null,
    primary key (tenant_id, mode, statement_id, kind, position),
    foreign key (tenant_id, mode, statement_id)
        references statement_request (tenant_id, mode, statement_id)
);
select isolate('statement_entry');

-- With which payout balance transactions left: Stripe says so of the payout, which is made later.
create table statement_departure (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    stripe_balance_transaction_id text not null,
    payout_id text not null,
    primary key (tenant_id, mode, statement_id, stripe_balance_transaction_id),
    foreign key (tenant_id, mode, statement_id)
        references statement_request (tenant_id, mode, statement_id)
);
select isolate('statement_departure');
