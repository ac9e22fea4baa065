-- migrate:up

-- The only way to book. Entries whose source key is booked already, or comes before in the same
-- call, are passed over where their content is the same. Answers the ids of the entries that were
-- booked now. As before, but for the following.
--
-- Given the types and normal sides of accounts, it opens those that the book does not have yet. An
-- account without a balance may be one; of all others there is nothing to look up, for nothing is
-- booked on an account that is not open, and none is ever closed. A caller that gives none has opened
-- them, as it did before.
--
-- Accounts are sorted once, by what is moved on each. From then on their place in that order stands
-- for them, and a chain's head is looked up once for a book, not for every entry. That statement looks
-- up nothing but heads, so one plan is as good as another and is kept; for what is looked up before it,
-- plans are made for the tables as they are.
--
-- Booking no longer begins with `account`, but with the advisory locks of the books. A migration that
-- needs everybody to wait takes `journal_entry` first, which the call reads before it writes.
-- squawk-ignore ban-drop-function
drop function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[], timestamptz[],
    uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[], uuid[]);
create function post_entries(
    entry_tenants uuid[], entry_books text[], entry_ids uuid[], entry_source_keys text[],
    entry_hashes bytea[], entry_effective_ats timestamptz[], entry_booked_ats timestamptz[],
    entry_causations uuid[], entry_rules text[], entry_rule_versions integer[],
    line_entries uuid[], line_accounts text[], line_sides text[], line_amounts bigint[],
    line_currencies text[], entry_reverses uuid[] default null, line_types text[] default null,
    line_normal_sides text[] default null
) returns setof uuid
language plpgsql security definer
set plan_cache_mode = force_custom_plan
set enable_nestloop = off
as $$
declare
    in_mode constant text := current_setting('app.mode');
    contradicted text;
    fresh uuid[];
    booked uuid[];
    filled record;
begin
    perform pg_advisory_xact_lock(hashtextextended(concat_ws('/', 'book', t, in_mode, b), 0))
    from (select distinct t, b from unnest(entry_tenants, entry_books) as u(t, b)
          order by t, b) as books;

    if cardinality(entry_ids) > (
        select count(*)
        from (select id from unnest(line_entries) as l(id) group by id having count(*) > 1) as lined
        join unnest(entry_ids) as e(id) using (id)) then
        raise exception 'an entry needs at least two postings' using errcode = 'SL001';
    end if;

    with told as (
        select u.*, first_value(h) over same as first_hash, row_number() over same as nth
        from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes)
            with ordinality as u(t, b, i, k, h, n)
        window same as (partition by t, b, k order by n)
    )
    select array_agg(told.i order by told.n) filter (where nth = 1 and j.id is null),
           min(told.k) filter (where told.h <> coalesce(j.content_hash, told.first_hash))
    into fresh, contradicted
    from told left join lateral (
        select j.id, j.content_hash from journal_entry j
        where j.tenant_id = told.t and j.mode = in_mode and j.book = told.b
            and j.source_key = told.k limit 1) j on true;
    if contradicted is not null then
        raise exception '% is booked already with other content', contradicted
            using errcode = 'SL002';
    end if;
    if fresh is null then
        return;
    end if;

    set local plan_cache_mode = force_generic_plan;
    with entry as materialized (
        select e.*, row_number() over (partition by e.t, e.b order by e.n) as nth
        from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes,
                entry_effective_ats, entry_booked_ats, entry_causations, entry_rules,
                entry_rule_versions, entry_reverses)
            with ordinality as e(t, b, i, k, h, f, o, c, r, v, x, n)
        join unnest(fresh) as f(i) on f.i = e.i
    ), line as materialized (
        select e.t as tenant_id, e.b as book, l.a as account, l.c as currency, l.i as entry_id,
               l.s as side, l.m as amount_minor, l.n, e.f as effective_at, e.o as booked_at,
               l.y as type, l.z as normal_side,
               row_number() over (partition by e.n order by l.n) as line,
               case l.s when 'debit' then l.m else 0 end as debit_minor,
               case l.s when 'credit' then l.m else 0 end as credit_minor
        from unnest(line_entries, line_accounts, line_sides, line_amounts, line_currencies,
                line_types, line_normal_sides) with ordinality as l(i, a, s, m, c, y, z, n)
        join entry e on e.i = l.i
    ), grouped as materialized (
        select tenant_id, book, account, currency, sum(debit_minor)::bigint as debit_minor,
               sum(credit_minor)::bigint as credit_minor, count(*) as postings,
               min(type) as type, min(normal_side) as normal_side,
               row_number() over (order by tenant_id, book, account, currency) as place
        from line group by tenant_id, book, account, currency
    ), moved as (
        insert into account_balance as known (tenant_id, mode, book, account, currency,
            debit_minor, credit_minor, last_seq)
        select tenant_id, in_mode, book, account, currency, debit_minor, credit_minor, postings
        from grouped order by place
        on conflict (tenant_id, mode, book, account, currency) do update set
            debit_minor = known.debit_minor + excluded.debit_minor,
            credit_minor = known.credit_minor + excluded.credit_minor,
            last_seq = known.last_seq + excluded.last_seq
        returning tenant_id, book, account, currency, last_seq,
                  debit_minor - credit_minor as balance_minor
    ), placed as materialized (
        select g.*, m.last_seq - g.postings as seq_before,
               m.balance_minor - (g.debit_minor - g.credit_minor) as before_minor
        from grouped g join moved m using (tenant_id, book, account, currency)
    ), opened as (
        insert into account (tenant_id, mode, book, code, type, normal_side)
        select tenant_id, in_mode, book, account, type, normal_side
        from placed where seq_before = 0 and type is not null order by place
        on conflict do nothing
    ), posted as (
        insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id, line,
            side, amount_minor, balance_after_minor, effective_at, booked_at)
        select l.tenant_id, in_mode, l.book, l.account, l.currency,
               p.seq_before + row_number() over so_far, l.entry_id, l.line, l.side, l.amount_minor,
               (p.before_minor + sum(l.debit_minor - l.credit_minor) over so_far)::bigint,
               l.effective_at, l.booked_at
        from line l join placed p using (tenant_id, book, account, currency)
        window so_far as (partition by p.place order by l.n rows unbounded preceding)
        returning tenant_id, book, account, currency, account_seq, entry_id, line, side,
                  amount_minor, balance_after_minor
    ), lined as (
        select entry_id, string_agg(posting_text(account, currency, account_seq, side,
                   amount_minor, balance_after_minor), E'\n' order by line) as postings
        from posted group by entry_id
    ), head as materialized (
        select b.t, b.b, coalesce(h.last_seq, 0) as seq,
               coalesce(h.last_hash, decode(repeat('00', 32), 'hex')) as hash
        from (select distinct t, b from entry) b
        left join lateral (
            select c.last_seq, c.last_hash from book_chain c
            where c.tenant_id = b.t and c.mode = in_mode and c.book = b.b limit 1) h on true
    ), chained as (
        select e.*, h.seq + e.nth as chain_seq,
               chain(h.hash, h.seq + e.nth,
                   entry_text(e.t, in_mode, e.b, e.i, e.k, e.h, e.f, e.o, e.c, e.r, e.v, e.x,
                       l.postings)) over (partition by e.t, e.b order by e.n) as chain_hash
        from entry e join lined l on l.entry_id = e.i join head h on h.t = e.t and h.b = e.b
    ), entered as (
        insert into journal_entry (tenant_id, mode, book, id, source_key, content_hash,
            effective_at, booked_at, causation_id, rule, rule_version, reverses, chain_seq,
            chain_hash)
        select t, in_mode, b, i, k, h, f, o, c, r, v, x, chain_seq, chain_hash from chained
        order by t, b, n
        returning tenant_id, book, id, chain_seq, chain_hash
    ), headed as (
        insert into book_chain as known (tenant_id, mode, book, last_seq, last_hash)
        select distinct on (tenant_id, book) tenant_id, in_mode, book, chain_seq, chain_hash
        from entered order by tenant_id, book, chain_seq desc
        on conflict (tenant_id, mode, book) do update set
            last_seq = excluded.last_seq, last_hash = excluded.last_hash
    )
    select (select array_agg(id) from entered) as ids, array_agg(tenant_id) as tenants,
           array_agg(book) as books, array_agg(account) as accounts,
           array_agg(currency) as currencies, array_agg(account_seq / 1024 - 1) as blocks
    into filled from posted where account_seq % 1024 = 0;

    set local plan_cache_mode = force_custom_plan;
    if filled.blocks is not null then
        perform add_up_blocks(filled.tenants, in_mode, filled.books, filled.accounts,
            filled.currencies, filled.blocks);
    end if;
    return query select unnest(filled.ids);
end $$;

do $$
begin
    execute format('alter function post_entries(uuid[], text[], uuid[], text[], bytea[], '
        'timestamptz[], timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], '
        'text[], uuid[], text[], text[]) set search_path = %I, pg_temp', current_schema());
end $$;

revoke all on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[], uuid[],
    text[], text[]) from public;
grant execute on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[], uuid[],
    text[], text[]) to sluice_ledger;
