-- migrate:up

-- Every version of every namespace of a tenant's configuration; the highest one holds.
create table tenant_config (
    tenant_id uuid not null references tenant (tenant_id),
    namespace text not null check (length(namespace) <= 60),
    version integer not null check (version > 0),
    content jsonb not null check (jsonb_typeof(content) = 'object'),
    changed_by text not null,
    changed_at timestamptz not null,
    primary key (tenant_id, namespace, version)
);
select isolate('tenant_config', with_mode => false);
revoke update, delete on tenant_config from sluice_tenants;

-- Live mode is open to a tenant from `live_since` on; what of the checklist was waived, and why.
alter table tenant
    add column live_since timestamptz,
    add column live_waivers jsonb not null default '{}',
    -- The one tenant everything lives under while billing is switched off.
    add column always_active boolean not null default false;
