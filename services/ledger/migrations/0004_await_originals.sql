-- migrate:up

-- Reversals whose entry is not booked yet: when topics are read anew, the command may come before the
-- fact it takes back. Each is booked, and leaves, with the entry of its source key.
create table waiting_reversal (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    source_key text not null check (length(source_key) between 1 and 500),
    reversal_id uuid not null,
    effective_at timestamptz not null,
    booked_at timestamptz not null,
    causation_id uuid not null,
    correlation_id uuid,
    primary key (tenant_id, mode, book, source_key)
);
select isolate_by_book('waiting_reversal');
revoke update on waiting_reversal from sluice_ledger;
