-- migrate:up

-- A tenant that was shredded and has connected no account since is gone: what comes at the platform's
-- own account for it is nobody's, whatever of Stripe's ids or of our metadata names it. There is a row
-- for each tenant that ever had a secret: they are written anew in no time.
alter table tenant_secrets add column has_left boolean
    -- squawk-ignore adding-field-with-default
    generated always as (record @> '{"left": true}') stored;
-- squawk-ignore require-concurrent-index-creation
create index tenant_secrets_left on tenant_secrets (tenant_id) where has_left;
create policy look_up on tenant_secrets to sluice_lookup using (true);
grant select (tenant_id, has_left) on tenant_secrets to sluice_lookup;

-- As single values, so that each is one look into an index whatever the planner thinks of the tables.
create or replace function find_tenant_ids(wanted_kinds text[], wanted_values text[])
returns table (kind text, value text, tenant_id uuid)
language plpgsql stable security definer set search_path = gateway, pg_temp as $$
#variable_conflict use_column
begin
    return query
    select w.kind, w.value, d.tenant_id
    from unnest(wanted_kinds, wanted_values) as w(kind, value)
    join directory d on d.tenant_id = coalesce(
        (select a.tenant_id from directory_account a
            where w.kind = 'account' and a.value = w.value
            order by a.claimed_at desc, a.tenant_id limit 1),
        (select l.tenant_id from directory_lookup l
            where l.kind = w.kind and l.value = w.value))
    where (select true from tenant_secrets s where s.tenant_id = d.tenant_id and s.has_left) is null
        or (select true from directory_account a where a.tenant_id = d.tenant_id limit 1);
end $$;
