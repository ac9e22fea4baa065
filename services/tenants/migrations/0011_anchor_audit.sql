-- migrate:up

-- The last entry of each chain, and how far it was signed for.
create table audit_head (
    tenant_id uuid primary key,
    seq bigint not null check (seq > 0),
    hash bytea not null check (length(hash) = 32),
    anchored_seq bigint not null default 0 check (anchored_seq between 0 and seq),
    anchored_at timestamptz not null default '-infinity'
);
create index audit_head_unsigned on audit_head (anchored_at, tenant_id) where seq > anchored_seq;
select isolate('audit_head', with_mode => false);
select open_to_maintenance('audit_head');

-- Chains that are there already; the owner reads them for this moment only.
alter table audit_entry no force row level security;
insert into audit_head (tenant_id, seq, hash)
    select distinct on (tenant_id) tenant_id, seq, hash from audit_entry
    order by tenant_id, seq desc;
alter table audit_entry force row level security;

-- Signed heads as they came back from the topic audit.events; several of one number mean that the
-- chain was changed in between.
create table audit_anchor (
    tenant_id uuid not null,
    event_id uuid not null,
    seq bigint not null check (seq > 0),
    hash bytea not null check (length(hash) = 32),
    key_id text not null,
    signature bytea not null,
    anchored_at timestamptz not null,
    primary key (tenant_id, event_id)
);
create index audit_anchor_seq on audit_anchor (tenant_id, seq);
select isolate('audit_anchor', with_mode => false);
revoke update, delete, truncate on audit_anchor from sluice_tenants;

-- The log is searched by each of these, the newest first.
-- squawk-ignore require-concurrent-index-creation
create index audit_entry_occurred_at on audit_entry (tenant_id, occurred_at, seq);
-- squawk-ignore require-concurrent-index-creation
create index audit_entry_action on audit_entry (tenant_id, action, seq);
-- squawk-ignore require-concurrent-index-creation
create index audit_entry_actor on audit_entry (tenant_id, actor, seq);
-- squawk-ignore require-concurrent-index-creation
create index audit_entry_object_id on audit_entry (tenant_id, object_id, seq);
