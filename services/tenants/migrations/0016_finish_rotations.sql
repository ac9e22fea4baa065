-- migrate:up

-- When a rotation last had its turn; the one that waited longest comes first.
alter table key_rotation add column turn_at timestamptz;

-- A secret that is on its way into a store outside, and that nothing names yet. Whoever enters it
-- takes the row away in the same commit; what is left over was written by a process that died, and
-- is deleted outside. `doomed_at`: that has begun, and nobody may enter the secret any more.
create table secret_intent (
    tenant_id uuid not null references tenant (tenant_id),
    secret_id uuid not null,
    begun_at timestamptz not null,
    doomed_at timestamptz,
    primary key (tenant_id, secret_id)
);
create index secret_intent_begun on secret_intent (begun_at);
select isolate('secret_intent', with_mode => false);
select open_to_maintenance('secret_intent');
