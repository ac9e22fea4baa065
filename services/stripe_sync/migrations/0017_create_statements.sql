-- migrate:up

-- Statements of accounts that the ledger asked for; listed afresh from Stripe.
create table statement_request (
    tenant_id uuid not null,
    mode text not null,
    statement_id uuid not null,
    account text not null,
    listed_from timestamptz not null,
    listed_to timestamptz not null,
    state text not null default 'pending' check (state in ('pending', 'done', 'failed')),
    attempts integer not null default 0,
    next_try_at timestamptz not null default '-infinity',
    last_error text,
    requested_at timestamptz not null,
    effective_at timestamptz not null,
    causation_id uuid not null,
    correlation_id uuid not null,
    primary key (tenant_id, mode, statement_id)
);
create index statement_request_due on statement_request (next_try_at) where state = 'pending';
select isolate('statement_request');
select open_to_maintenance('statement_request');
