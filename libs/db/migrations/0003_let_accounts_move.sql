-- migrate:up

-- Which tenants' records name a Stripe account, and since when: an account moves from one tenant to
-- another, and their records arrive in either order. The one that named it last has it.
create table directory_account (
    tenant_id uuid not null,
    value text not null,
    claimed_at timestamptz not null,
    primary key (tenant_id, value)
);
create index directory_account_value on directory_account (value, claimed_at desc);
select isolate('directory_account', with_mode => false);
select open_to_maintenance('directory_account');
create policy look_up on directory_account to sluice_lookup using (true);
grant select on directory_account to sluice_lookup;

create or replace function find_tenant(wanted_kind text, wanted_value text) returns jsonb
language plpgsql stable security definer as $$
declare
    owner_id uuid;
begin
    if wanted_kind = 'account' then
        select a.tenant_id into owner_id from directory_account a
        where a.value = wanted_value order by a.claimed_at desc, a.tenant_id limit 1;
    end if;
    if owner_id is null then
        select l.tenant_id into owner_id from directory_lookup l
        where l.kind = wanted_kind and l.value = wanted_value;
    end if;
    return (
        select jsonb_build_object('tenant_id', d.tenant_id, 'snapshot', d.snapshot)
        from directory d where d.tenant_id = owner_id);
end $$;
do $$
begin
    execute format('alter function find_tenant(text, text) set search_path = %I, pg_temp',
        current_schema());
end $$;
