-- migrate:up

-- The audit log: one chain of hashes per tenant. hash = SHA-256(previous_hash || canonical JSON of
-- content), so that changing, removing or inserting an entry shows.
create table audit_entry (
    tenant_id uuid not null,
    seq bigint not null check (seq > 0),
    event_id uuid not null,
    occurred_at timestamptz not null,
    kind text not null check (kind in ('security', 'configuration')),
    action text not null,
    actor text not null,
    object_id text,
    content jsonb not null,
    previous_hash bytea not null check (length(previous_hash) = 32),
    hash bytea not null check (length(hash) = 32),
    primary key (tenant_id, seq),
    unique (tenant_id, event_id)
);
select isolate('audit_entry', with_mode => false);
revoke update, delete, truncate on audit_entry from sluice_tenants;
