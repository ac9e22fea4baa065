-- migrate:up

-- Which master key a data key is wrapped under, and since when; null: since it was made.
alter table data_key add column master_key_id text;
alter table data_key add column wrapped_at timestamptz;
select open_to_maintenance('data_key');

-- A sealed value names a data key that is there.
alter table connection_secret add constraint connection_secret_data_key
    foreign key (tenant_id, data_key_id) references data_key (tenant_id, data_key_id) not valid;

-- The value is sealed anew under another data key; what it says never changes.
grant update (private_key_sealed, data_key_id) on signing_key to sluice_tenants;

-- Rotations, of the master key (tenant: the platform) or of a tenant's data key.
create table key_rotation (
    tenant_id uuid not null references tenant (tenant_id),
    rotation_id uuid not null,
    kind text not null check (kind in ('master', 'data')),
    state text not null check (state in ('sealing', 'waiting', 'done')),
    requested_by text not null,
    started_at timestamptz not null,
    newest_id text,
    done_count bigint not null default 0,
    failure text,
    retry_at timestamptz,
    finished_at timestamptz,
    primary key (tenant_id, rotation_id)
);
create unique index key_rotation_open on key_rotation (tenant_id, kind) where finished_at is null;
select isolate('key_rotation', with_mode => false);
select open_to_maintenance('key_rotation');

-- The version of a tenant's secrets that every holder must have before a rotation is done.
create table key_rotation_told (
    tenant_id uuid not null,
    rotation_id uuid not null,
    secrets_version bigint not null,
    primary key (tenant_id, rotation_id)
);
create index key_rotation_told_rotation on key_rotation_told (rotation_id);
select isolate('key_rotation_told', with_mode => false);
select open_to_maintenance('key_rotation_told');

-- The newest version of a tenant's secrets that each holder has told of.
create table secrets_holder (
    tenant_id uuid not null,
    service text not null,
    version bigint not null check (version > 0),
    primary key (tenant_id, service)
);
select isolate('secrets_holder', with_mode => false);
select open_to_maintenance('secrets_holder');
