-- migrate:up

-- Whose the webhooks of one commit are: many exact look-ups in one call, and of the tenants only their
-- ids. What is found is what `find_tenant` finds.
create function find_tenant_ids(wanted_kinds text[], wanted_values text[])
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
            where l.kind = w.kind and l.value = w.value));
end $$;
alter function find_tenant_ids(text[], text[]) owner to sluice_lookup;
