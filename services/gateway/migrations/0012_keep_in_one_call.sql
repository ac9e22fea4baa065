-- migrate:up

-- Events that came together are kept in one statement, which is a transaction by itself: their ids
-- taken, the archive and the outbox written, for those whose id nobody had taken.
--
-- Where events name a customer who was erased in their tenant, nothing is kept and these are told in
-- `erased`, so that the caller blanks them and asks again for all with `blanked`: there is one commit,
-- of all or of nothing. In `fresh` stand those that were kept.
create function keep_events(
    in_tenants text, in_mode text, blanked boolean,
    ids uuid[], tenants uuid[], id_accounts text[], accounts text[], stripe_event_ids text[],
    digests bytea[], event_types text[], api_versions text[], created_ats timestamptz[],
    object_types text[], object_ids text[], assignments text[], reasons text[], payloads bytea[],
    all_headers text[], received_ats timestamptz[],
    named_ids uuid[], named_tenants uuid[], named_customers text[],
    letter_ids uuid[], letter_tenants uuid[], letter_modes text[], letter_topics text[],
    letter_events uuid[], letter_kinds text[], letter_payloads text[], letter_headers text[],
    letter_shards smallint[],
    out fresh uuid[], out erased uuid[]
) language plpgsql as $$
begin
    perform set_config('app.tenants', in_tenants, true), set_config('app.mode', in_mode, true);
    erased := '{}';
    if not blanked then
        select coalesce(array_agg(distinct n.i), '{}') into erased
        from unnest(named_ids, named_tenants, named_customers) as n(i, t, c)
        join erased_customer x on x.tenant_id = n.t and x.mode = in_mode and x.stripe_customer_id = n.c;
        if erased <> '{}' then
            fresh := '{}';
            return;
        end if;
    end if;

    -- Sorted: of two statements that enter the same ids neither waits for the other's next one.
    with taken as (
        insert into taken_event_id (account, mode, stripe_event_id, event_id, body_digest)
        select a, in_mode, s, i, d
        from unnest(ids, id_accounts, stripe_event_ids, digests) as u(i, a, s, d)
        order by a, s
        on conflict do nothing returning event_id)
    select coalesce(array_agg(event_id), '{}') into fresh from taken;

    insert into webhook_event (tenant_id, mode, id, account, stripe_event_id, event_type,
        api_version, event_created_at, object_type, object_id, assignment, quarantine_reason,
        payload, payload_bytes, headers, received_at)
    select t, in_mode, i, a, s, y, v, c, ot, oi, g, q, p, length(p), h::jsonb, r
    from unnest(tenants, ids, accounts, stripe_event_ids, event_types, api_versions, created_ats,
            object_types, object_ids, assignments, reasons, payloads, all_headers, received_ats)
        as u(t, i, a, s, y, v, c, ot, oi, g, q, p, h, r)
    where i = any (fresh);

    insert into outbox (tenant_id, mode, topic, event_id, event_type, payload, headers, shard)
    select t, m, o, e, y, p, h::jsonb, s
    from unnest(letter_ids, letter_tenants, letter_modes, letter_topics, letter_events,
            letter_kinds, letter_payloads, letter_headers, letter_shards)
        with ordinality as u(i, t, m, o, e, y, p, h, s, n)
    where i = any (fresh)
    order by n;
end $$;
