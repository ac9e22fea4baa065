-- migrate:up

-- All that a limit check needs of one customer and meter, in one statement that is a transaction of its
-- own: its scope holds from its first line to its end. It runs as who calls it, so every policy holds.
create function look_at_limit(
    of_tenant uuid,
    in_mode text,
    of_customer uuid,
    of_meter uuid,
    customers text[],
    held_after timestamptz,
    first_minute timestamptz,
    end_minute timestamptz
)
returns table (
    id uuid,
    billed_by text,
    plan_key text,
    plan_version_id uuid,
    status text,
    period_from timestamptz,
    period_to timestamptz,
    credit jsonb,
    reserved numeric,
    event_count numeric,
    total numeric,
    received_at timestamptz
)
language plpgsql as $$
begin
    perform set_config('app.tenants', of_tenant::text, true),
        set_config('app.mode', in_mode, true), set_config('app.books', '', true);
    return query
        select known.*, held.weight, used.event_count, used.total, progress.received_at
        from (select) as one
        left join lateral (
            select s.id, s.billed_by, s.plan_key, s.plan_version_id, s.status, s.period_from,
                s.period_to, (
                    select coalesce(jsonb_object_agg(c.meter, jsonb_build_object(
                        'since', c.since, 'amount', c.amount::text)), '{}')
                    from credit_limit c
                    where c.tenant_id = s.tenant_id and c.mode = s.mode
                        and c.customer_id = s.customer_id and c.billed_by = s.billed_by
                        and c.amount is not null
                )
            from subscription s
            where s.tenant_id = of_tenant and s.mode = in_mode and s.customer_id = of_customer
            order by s.status = 'canceled', s.period_to desc nulls last, s.id desc limit 1
        ) as known on true
        cross join lateral (
            select coalesce(sum(r.weight), 0) as weight
            from reservation r
            where r.tenant_id = of_tenant and r.mode = in_mode and r.meter_id = of_meter
                and r.customer = any (customers) and r.weight > 0
                and (r.state <> 'held' or r.expires_at > held_after)
        ) as held
        cross join lateral (
            -- Series by series: of a tenant's minutes only those of this customer are looked at.
            select coalesce(sum(m.event_count), 0) as event_count,
                coalesce(sum(m.total), 0) as total
            from usage_series u
            cross join lateral (
                select sum(a.event_count) as event_count, sum(a.total) as total
                from usage_minute a
                where a.tenant_id = of_tenant and a.mode = in_mode and a.series_id = u.id
                    and a.minute >= first_minute and a.minute < end_minute
            ) as m
            where u.tenant_id = of_tenant and u.mode = in_mode and u.meter_id = of_meter
                and u.customer = any (customers)
        ) as used
        left join lateral (
            select p.received_at from usage_progress p
            where p.tenant_id = of_tenant and p.mode = in_mode
        ) as progress on true;
end $$;
