-- migrate:up

-- Adds up blocks that an account's postings filled just now. As before, but for the following.
--
-- Each block is read by the key of its postings. Whoever books asks the planner for joins without
-- loops, and so every posting of the tenants in scope was read for the blocks of a call: the longer a
-- book, the longer each of its blocks took. With a limit a block can only be read by itself, and
-- unsorted only by the key.
--
-- Months are made of hours, and blocks too, not of postings.
create or replace function add_up_blocks(
    tenants uuid[], in_mode text, books text[], accounts text[], currencies text[], blocks bigint[]
) returns void
language plpgsql
set enable_nestloop = on
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
begin
    with filled as materialized (
        select * from unnest(tenants, books, accounts, currencies, blocks) with ordinality
            as u(t, b, a, c, k, n)
    ), hour as materialized (
        select f.n, date_trunc('hour', p.effective_at, 'UTC') as starts_at,
               sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end) as change,
               min(p.effective_at) as effective_from, max(p.effective_at) as effective_to,
               min(p.booked_at) as booked_from, max(p.booked_at) as booked_to
        from filled f cross join lateral (
            select p.side, p.amount_minor, p.effective_at, p.booked_at from posting p
            where p.tenant_id = f.t and p.mode = in_mode and p.book = f.b and p.account = f.a
                and p.currency = f.c
                and p.account_seq between f.k * 1024 + 1 and f.k * 1024 + 1024
            order by p.account_seq limit 1024) p
        group by 1, 2
    ), added as (
        insert into posting_block (tenant_id, mode, book, account, currency, block, change_minor,
            effective_from, effective_to, booked_from, booked_to)
        select f.t, in_mode, f.b, f.a, f.c, f.k, h.change, h.effective_from, h.effective_to,
               h.booked_from, h.booked_to
        from filled f join (
            select n, sum(change) as change, min(effective_from) as effective_from,
                   max(effective_to) as effective_to, min(booked_from) as booked_from,
                   max(booked_to) as booked_to
            from hour group by n) h using (n)
    )
    insert into posting_span as known (tenant_id, mode, book, account, currency, span, starts_at,
        change_minor, effective_from, effective_to)
    select f.t, in_mode, f.b, f.a, f.c, s.span, date_trunc(s.span, h.starts_at, 'UTC'),
           sum(h.change), min(h.effective_from), max(h.effective_to)
    from filled f join hour h using (n) cross join (values ('hour'), ('month')) as s(span)
    group by f.t, f.b, f.a, f.c, s.span, 7
    order by f.t, f.b, f.a, f.c, s.span, 7
    on conflict (tenant_id, mode, book, account, currency, span, starts_at) do update set
        change_minor = known.change_minor + excluded.change_minor,
        effective_from = least(known.effective_from, excluded.effective_from),
        effective_to = greatest(known.effective_to, excluded.effective_to);
end $$;
