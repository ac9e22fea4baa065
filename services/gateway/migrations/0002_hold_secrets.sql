-- migrate:up

-- Sealed secrets and wrapped data keys of tenants (topic tenants.secrets); ciphertext only.
create table tenant_secrets (
    tenant_id uuid primary key,
    version bigint not null check (version > 0),
    record jsonb not null
);
select isolate('tenant_secrets', with_mode => false);
