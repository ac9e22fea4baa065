-- migrate:up

-- Runs that build a tenant's books anew from their topics, beside the live ones, and compare them.
create table ledger_rebuild (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    state text not null check (state in ('waiting', 'running', 'equal', 'different', 'failed')),
    attempts integer not null default 0,
    records_read bigint not null default 0,
    records_expected bigint not null default 0,
    found jsonb,
    error text,
    requested_at timestamptz not null,
    worked_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, mode, id)
);
create index ledger_rebuild_open on ledger_rebuild (requested_at)
    where state in ('waiting', 'running');
select isolate('ledger_rebuild');
select open_to_maintenance('ledger_rebuild');
