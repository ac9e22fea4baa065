-- migrate:up

-- What the migration before asks of rows holds for those that were there.
alter table journal_entry validate constraint journal_entry_chained;
alter table journal_entry validate constraint journal_entry_reversed;
alter table posting validate constraint posting_timed;

-- Entries and accounts never change and are never deleted, so looking for them once, when postings
-- are added, holds for ever. One look for all postings of a statement takes the place of a foreign
-- key's check and row lock for each of them.
-- squawk-ignore ban-drop-constraint
alter table posting drop constraint posting_tenant_id_mode_book_entry_id_fkey;
-- squawk-ignore ban-drop-constraint
alter table posting drop constraint posting_tenant_id_mode_book_account_fkey;
-- squawk-ignore ban-drop-constraint
alter table account_balance drop constraint account_balance_tenant_id_mode_book_account_fkey;

-- Postings come balanced or not at all, by entry and currency, within one statement, and only of
-- entries and on accounts that there are. Each is looked up by its key (`lateral … limit 1`): of a
-- table that has just grown from nothing the planner knows nothing, and would read all of it.
create or replace function refuse_unbalanced() returns trigger
language plpgsql
set enable_seqscan = off
as $$
declare
    refused record;
begin
    select entry_id, currency,
           sum(case side when 'debit' then amount_minor else -amount_minor end) as difference
    into refused
    from added group by tenant_id, mode, book, entry_id, currency
    having sum(case side when 'debit' then amount_minor else -amount_minor end) <> 0 limit 1;
    if found then
        raise exception 'entry % does not balance: % % more debit than credit',
            refused.entry_id, refused.difference, refused.currency
            using errcode = 'SL001';
    end if;

    select a.entry_id into refused
    from (select distinct tenant_id, mode, book, entry_id from added) a
    left join lateral (
        select true as exists from journal_entry e where e.tenant_id = a.tenant_id
            and e.mode = a.mode and e.book = a.book and e.id = a.entry_id limit 1) e on true
    where e.exists is null limit 1;
    if found then
        raise exception 'there is no entry % in this book', refused.entry_id
            using errcode = 'foreign_key_violation';
    end if;

    select a.account into refused
    from (select distinct tenant_id, mode, book, account from added) a
    left join lateral (
        select true as exists from account k where k.tenant_id = a.tenant_id
            and k.mode = a.mode and k.book = a.book and k.code = a.account limit 1) k on true
    where k.exists is null limit 1;
    if found then
        raise exception 'there is no account % in this book', refused.account
            using errcode = 'foreign_key_violation';
    end if;
    return null;
end $$;

-- The only way to book. Entries whose source key is booked already, or comes before in the same
-- call, are passed over where their content is the same. Answers the ids of the entries that were
-- booked now.
--
-- The lock comes first: entries are chained, postings are numbered and balances carried on by one
-- writer of a book at a time. Balances are touched in sorted order. Plans are made for the arrays at
-- hand: one for a few entries would be hopeless for a thousand. A caller that knows nothing of
-- reversals calls it as before.
-- squawk-ignore ban-drop-function
drop function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[], timestamptz[],
    uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[]);
create function post_entries(
    entry_tenants uuid[], entry_books text[], entry_ids uuid[], entry_source_keys text[],
    entry_hashes bytea[], entry_effective_ats timestamptz[], entry_booked_ats timestamptz[],
    entry_causations uuid[], entry_rules text[], entry_rule_versions integer[],
    line_entries uuid[], line_accounts text[], line_sides text[], line_amounts bigint[],
    line_currencies text[], entry_reverses uuid[] default null
) returns setof uuid
language plpgsql security definer
set plan_cache_mode = force_custom_plan
as $$
declare
    in_mode constant text := current_setting('app.mode');
    contradicted text;
    fresh uuid[];
    posted record;
    entry record;
    of_tenant uuid;
    of_book text;
    seq bigint;
    head bytea;
    chained_ids uuid[] := '{}';
    chained_seqs bigint[] := '{}';
    chained_hashes bytea[] := '{}';
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

    with line as (
        select e.t as tenant_id, e.b as book, l.a as account, l.c as currency, l.i as entry_id,
               l.s as side, l.m as amount_minor, l.n, e.f as effective_at, e.o as booked_at,
               case l.s when 'debit' then l.m else 0 end as debit_minor,
               case l.s when 'credit' then l.m else 0 end as credit_minor
        from unnest(line_entries, line_accounts, line_sides, line_amounts, line_currencies)
            with ordinality as l(i, a, s, m, c, n)
        join unnest(entry_tenants, entry_books, entry_ids, entry_effective_ats, entry_booked_ats)
            as e(t, b, i, f, o) on e.i = l.i
        where l.i = any(fresh)
    ), moved as (
        insert into account_balance as known (tenant_id, mode, book, account, currency,
            debit_minor, credit_minor, last_seq)
        select tenant_id, in_mode, book, account, currency, sum(debit_minor), sum(credit_minor),
               count(*)
        from line group by tenant_id, book, account, currency
        order by tenant_id, book, account, currency
        on conflict (tenant_id, mode, book, account, currency) do update set
            debit_minor = known.debit_minor + excluded.debit_minor,
            credit_minor = known.credit_minor + excluded.credit_minor,
            last_seq = known.last_seq + excluded.last_seq
        returning tenant_id, book, account, currency, last_seq,
                  debit_minor - credit_minor as balance_minor
    ), numbered as (
        select l.*,
               row_number() over (partition by l.entry_id order by l.n) as line,
               m.last_seq - count(*) over whole + row_number() over so_far as account_seq,
               (m.balance_minor - sum(l.debit_minor - l.credit_minor) over whole
                   + sum(l.debit_minor - l.credit_minor) over so_far)::bigint as balance_minor
        from line l join moved m using (tenant_id, book, account, currency)
        window whole as (partition by l.tenant_id, l.book, l.account, l.currency),
               so_far as (partition by l.tenant_id, l.book, l.account, l.currency order by l.n
                          rows unbounded preceding)
        order by l.n
    )
    select array_agg(tenant_id) as tenants, array_agg(book) as books,
           array_agg(account) as accounts, array_agg(currency) as currencies,
           array_agg(entry_id) as entries, array_agg(line) as lines, array_agg(side) as sides,
           array_agg(amount_minor) as amounts, array_agg(account_seq) as seqs,
           array_agg(balance_minor) as balances, array_agg(effective_at) as effective_ats,
           array_agg(booked_at) as booked_ats
    into posted from numbered;

    for entry in
        select e.t, e.b, e.i, entry_text(e.t, in_mode, e.b, e.i, e.k, e.h, e.f, e.o, e.c, e.r, e.v,
                   e.x, p.postings) as content
        from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes,
                entry_effective_ats, entry_booked_ats, entry_causations, entry_rules,
                entry_rule_versions, entry_reverses)
            with ordinality as e(t, b, i, k, h, f, o, c, r, v, x, n)
        join (
            select l.i, string_agg(posting_text(l.a, l.c, l.q, l.s, l.m, l.w), E'\n' order by l.n)
                as postings
            from unnest(posted.entries, posted.accounts, posted.currencies, posted.seqs,
                    posted.sides, posted.amounts, posted.balances)
                with ordinality as l(i, a, c, q, s, m, w, n)
            group by l.i) p on p.i = e.i
        order by e.t, e.b, e.n
    loop
        if (entry.t, entry.b) is distinct from (of_tenant, of_book) then
            of_tenant := entry.t;
            of_book := entry.b;
            select c.last_seq, c.last_hash into seq, head from book_chain c
            where c.tenant_id = of_tenant and c.mode = in_mode and c.book = of_book;
            if not found then
                seq := 0;
                head := decode(repeat('00', 32), 'hex');
            end if;
        end if;
        seq := seq + 1;
        head := link(head, seq, entry.content);
        chained_ids := chained_ids || entry.i;
        chained_seqs := chained_seqs || seq;
        chained_hashes := chained_hashes || head;
    end loop;

    insert into journal_entry (tenant_id, mode, book, id, source_key, content_hash, effective_at,
        booked_at, causation_id, rule, rule_version, reverses, chain_seq, chain_hash)
    select e.t, in_mode, e.b, e.i, e.k, e.h, e.f, e.o, e.c, e.r, e.v, e.x, c.q, c.l
    from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes,
            entry_effective_ats, entry_booked_ats, entry_causations, entry_rules,
            entry_rule_versions, entry_reverses) as e(t, b, i, k, h, f, o, c, r, v, x)
    join unnest(chained_ids, chained_seqs, chained_hashes) as c(i, q, l) on c.i = e.i;

    insert into book_chain as known (tenant_id, mode, book, last_seq, last_hash)
    select distinct on (e.t, e.b) e.t, in_mode, e.b, c.q, c.l
    from unnest(entry_tenants, entry_books, entry_ids) as e(t, b, i)
    join unnest(chained_ids, chained_seqs, chained_hashes) as c(i, q, l) on c.i = e.i
    order by e.t, e.b, c.q desc
    on conflict (tenant_id, mode, book) do update set
        last_seq = excluded.last_seq, last_hash = excluded.last_hash;

    insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id, line,
        side, amount_minor, balance_after_minor, effective_at, booked_at)
    select t, in_mode, b, a, c, q, i, l, s, m, w, f, o
    from unnest(posted.tenants, posted.books, posted.accounts, posted.currencies, posted.seqs,
            posted.entries, posted.lines, posted.sides, posted.amounts, posted.balances,
            posted.effective_ats, posted.booked_ats) as u(t, b, a, c, q, i, l, s, m, w, f, o);

    insert into posting_block (tenant_id, mode, book, account, currency, block, change_minor,
        effective_from, effective_to, booked_from, booked_to)
    select u.t, in_mode, u.b, u.a, u.c, u.q / 1024 - 1, p.change, p.effective_from, p.effective_to,
           p.booked_from, p.booked_to
    from unnest(posted.tenants, posted.books, posted.accounts, posted.currencies, posted.seqs)
        as u(t, b, a, c, q)
    cross join lateral (
        select sum(case side when 'debit' then amount_minor else -amount_minor end) as change,
               min(effective_at) as effective_from, max(effective_at) as effective_to,
               min(booked_at) as booked_from, max(booked_at) as booked_to
        from posting p where p.tenant_id = u.t and p.mode = in_mode and p.book = u.b
            and p.account = u.a and p.currency = u.c
            and p.account_seq between u.q - 1023 and u.q) p
    where u.q % 1024 = 0;

    return query select unnest(chained_ids);
end $$;

do $$
begin
    execute format('alter function post_entries(uuid[], text[], uuid[], text[], bytea[], '
        'timestamptz[], timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], '
        'text[], uuid[]) set search_path = %I, pg_temp', current_schema());
end $$;

revoke all on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[], uuid[])
    from public;
grant execute on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[], uuid[])
    to sluice_ledger;
