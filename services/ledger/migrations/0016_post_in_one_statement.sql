-- migrate:up

-- Nobody books meanwhile (see 0003): booking begins with `account`, so nobody is left inside the
-- function of before, which knows nothing of spans, when its postings are added up below.
set local statement_timeout = 0;
lock table account, posting in access exclusive mode;

-- What the postings of an account's full blocks come to by the hour and by the month (UTC) at which
-- their facts held. A block is of postings that were booked one after another; of facts that are booked
-- late it says nothing useful, and one such fact in each block would have every block read for a
-- balance at an effective time. Months and hours that lie before the time are added up unread.
create table posting_span (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    account text not null,
    currency text not null,
    span text not null check (span in ('hour', 'month')),
    starts_at timestamptz not null,
    change_minor bigint not null,
    effective_from timestamptz not null,
    effective_to timestamptz not null,
    primary key (tenant_id, mode, book, account, currency, span, starts_at),
    check (effective_from >= starts_at and effective_to >= effective_from)
);
select isolate_by_book('posting_span');
revoke insert, update, delete on posting_span from sluice_ledger;

alter table posting no force row level security;
alter table posting_span no force row level security;
alter table account_balance no force row level security;
insert into posting_span (tenant_id, mode, book, account, currency, span, starts_at, change_minor,
    effective_from, effective_to)
select p.tenant_id, p.mode, p.book, p.account, p.currency, s.span,
       date_trunc(s.span, p.effective_at, 'UTC'),
       sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end),
       min(p.effective_at), max(p.effective_at)
from posting p
join account_balance b using (tenant_id, mode, book, account, currency)
cross join (values ('hour'), ('month')) as s(span)
where p.account_seq <= 1024 * (b.last_seq / 1024)
group by p.tenant_id, p.mode, p.book, p.account, p.currency, s.span, 7;
alter table posting force row level security;
alter table posting_span force row level security;
alter table account_balance force row level security;

-- The postings of the one hour that a time lies in. Most accounts never have that many.
-- squawk-ignore require-concurrent-index-creation
create index posting_effective
    on posting (tenant_id, mode, book, account, currency, effective_at) where account_seq > 1024;

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
    select a.entry_id, a.currency, a.difference, e.exists into refused
    from (select tenant_id, mode, book, entry_id, currency,
              sum(case side when 'debit' then amount_minor else -amount_minor end) as difference
          from added group by tenant_id, mode, book, entry_id, currency) a
    left join lateral (
        select true as exists from journal_entry e where e.tenant_id = a.tenant_id
            and e.mode = a.mode and e.book = a.book and e.id = a.entry_id limit 1) e on true
    where a.difference <> 0 or e.exists is null limit 1;
    if refused.difference <> 0 then
        raise exception 'entry % does not balance: % % more debit than credit',
            refused.entry_id, refused.difference, refused.currency
            using errcode = 'SL001';
    end if;
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

-- The hash of each entry of a book, one after the other: `head` is the one before the first.
create function follow_chain(so_far bytea, head bytea, seq bigint, content text) returns bytea
language plpgsql stable as $$
begin
    return sha256(coalesce(so_far, head) || convert_to(
        concat_ws(E'\n', 'sluice.ledger.1', seq, content), 'UTF8'));
end $$;
create aggregate chain(head bytea, seq bigint, content text) (
    sfunc = follow_chain, stype = bytea
);

-- Adds up blocks that an account's postings filled just now.
create function add_up_blocks(
    tenants uuid[], in_mode text, books text[], accounts text[], currencies text[], blocks bigint[]
) returns void language plpgsql as $$
begin
    with line as materialized (
        select u.t, u.b, u.a, u.c, u.k, p.effective_at, p.booked_at,
               case p.side when 'debit' then p.amount_minor else -p.amount_minor end as change
        from unnest(tenants, books, accounts, currencies, blocks) as u(t, b, a, c, k)
        cross join lateral (
            select * from posting p where p.tenant_id = u.t and p.mode = in_mode and p.book = u.b
                and p.account = u.a and p.currency = u.c
                and p.account_seq between u.k * 1024 + 1 and u.k * 1024 + 1024) p
    ), added as (
        insert into posting_block (tenant_id, mode, book, account, currency, block, change_minor,
            effective_from, effective_to, booked_from, booked_to)
        select t, in_mode, b, a, c, k, sum(change), min(effective_at), max(effective_at),
               min(booked_at), max(booked_at)
        from line group by t, b, a, c, k
    )
    insert into posting_span as known (tenant_id, mode, book, account, currency, span, starts_at,
        change_minor, effective_from, effective_to)
    select t, in_mode, b, a, c, s.span, date_trunc(s.span, effective_at, 'UTC'), sum(change),
           min(effective_at), max(effective_at)
    from line cross join (values ('hour'), ('month')) as s(span)
    group by t, b, a, c, s.span, 7
    order by t, b, a, c, s.span, 7
    on conflict (tenant_id, mode, book, account, currency, span, starts_at) do update set
        change_minor = known.change_minor + excluded.change_minor,
        effective_from = least(known.effective_from, excluded.effective_from),
        effective_to = greatest(known.effective_to, excluded.effective_to);
end $$;

-- The only way to book. Entries whose source key is booked already, or comes before in the same
-- call, are passed over where their content is the same. Answers the ids of the entries that were
-- booked now.
--
-- The lock comes first: entries are chained, postings are numbered and balances carried on by one
-- writer of a book at a time. What follows it is one statement, from lines to balances, postings,
-- entries and heads, and balances are touched in sorted order. Plans are made for the arrays at hand:
-- one for a few entries would be hopeless for a thousand.
create or replace function post_entries(
    entry_tenants uuid[], entry_books text[], entry_ids uuid[], entry_source_keys text[],
    entry_hashes bytea[], entry_effective_ats timestamptz[], entry_booked_ats timestamptz[],
    entry_causations uuid[], entry_rules text[], entry_rule_versions integer[],
    line_entries uuid[], line_accounts text[], line_sides text[], line_amounts bigint[],
    line_currencies text[], entry_reverses uuid[] default null
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

    with entry as materialized (
        select e.*, row_number() over (partition by t, b order by n) as nth
        from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes,
                entry_effective_ats, entry_booked_ats, entry_causations, entry_rules,
                entry_rule_versions, entry_reverses)
            with ordinality as e(t, b, i, k, h, f, o, c, r, v, x, n)
        where e.i = any(fresh)
    ), line as materialized (
        select e.t as tenant_id, e.b as book, l.a as account, l.c as currency, l.i as entry_id,
               l.s as side, l.m as amount_minor, l.n, e.f as effective_at, e.o as booked_at,
               case l.s when 'debit' then l.m else 0 end as debit_minor,
               case l.s when 'credit' then l.m else 0 end as credit_minor
        from unnest(line_entries, line_accounts, line_sides, line_amounts, line_currencies)
            with ordinality as l(i, a, s, m, c, n)
        join entry e on e.i = l.i
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
    ), posted as (
        insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id, line,
            side, amount_minor, balance_after_minor, effective_at, booked_at)
        select l.tenant_id, in_mode, l.book, l.account, l.currency,
               m.last_seq - count(*) over whole + row_number() over so_far,
               l.entry_id, row_number() over (partition by l.entry_id order by l.n),
               l.side, l.amount_minor,
               (m.balance_minor - sum(l.debit_minor - l.credit_minor) over whole
                   + sum(l.debit_minor - l.credit_minor) over so_far)::bigint,
               l.effective_at, l.booked_at
        from line l join moved m using (tenant_id, book, account, currency)
        window whole as (partition by l.tenant_id, l.book, l.account, l.currency),
               so_far as (partition by l.tenant_id, l.book, l.account, l.currency order by l.n
                          rows unbounded preceding)
        returning tenant_id, book, account, currency, account_seq, entry_id, line, side,
                  amount_minor, balance_after_minor
    ), lined as (
        select entry_id, string_agg(posting_text(account, currency, account_seq, side,
                   amount_minor, balance_after_minor), E'\n' order by line) as postings
        from posted group by entry_id
    ), chained as (
        select e.*, coalesce(h.last_seq, 0) + e.nth as chain_seq,
               chain(coalesce(h.last_hash, decode(repeat('00', 32), 'hex')),
                   coalesce(h.last_seq, 0) + e.nth,
                   entry_text(e.t, in_mode, e.b, e.i, e.k, e.h, e.f, e.o, e.c, e.r, e.v, e.x,
                       l.postings)) over (partition by e.t, e.b order by e.n) as chain_hash
        from entry e join lined l on l.entry_id = e.i
        left join lateral (
            select c.last_seq, c.last_hash from book_chain c
            where c.tenant_id = e.t and c.mode = in_mode and c.book = e.b limit 1) h on true
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
        'text[], uuid[]) set search_path = %I, pg_temp', current_schema());
end $$;
