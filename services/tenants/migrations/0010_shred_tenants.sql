-- migrate:up

-- Secrets in a store outside that nothing names any more and that are still to be deleted there.
create table secret_destruction (
    tenant_id uuid not null references tenant (tenant_id),
    reference text not null,
    requested_at timestamptz not null,
    primary key (tenant_id, reference)
);
create index secret_destruction_requested on secret_destruction (requested_at);
select isolate('secret_destruction', with_mode => false);
select open_to_maintenance('secret_destruction');
