-- migrate:up

-- Everything that is booked gets a place in a chain. That takes the longer the more there is, so the
-- runner's 60 seconds for a statement do not hold here. Who books waits meanwhile, and who reads.
-- Booking begins with `account`: waiting for that lock first, nobody is left inside the function of
-- before, which knows nothing of chains, when the columns it leaves empty are asked for.
set local statement_timeout = 0;
lock table account, journal_entry, posting, account_balance in access exclusive mode;

-- The entries of a book are a chain: each carries its number and
--     SHA-256(hash of the entry before it || number and content of this one),
-- the first one after 32 zero bytes. The content is every column of the entry and of its postings
-- (`entry_text`), so a change, a removal or an insertion breaks every hash after it.
alter table journal_entry
    add column reverses uuid,
    add column chain_seq bigint,
    add column chain_hash bytea;

-- A posting's times are its entry's: a balance at a time is a sum over postings alone.
alter table posting
    add column effective_at timestamptz,
    add column booked_at timestamptz;

create function posting_text(
    account text, currency text, account_seq bigint, side text, amount_minor bigint,
    balance_after_minor bigint
) returns text language sql stable as $$
    select concat_ws(' ', account, currency, account_seq, side, amount_minor, balance_after_minor)
$$;

-- Times are microseconds since 1970; free text follows its length in bytes, so that nothing in it
-- can be taken for what comes after.
create function entry_text(
    tenant_id uuid, mode text, book text, id uuid, source_key text, content_hash bytea,
    effective_at timestamptz, booked_at timestamptz, causation_id uuid, rule text,
    rule_version integer, reverses uuid, postings text
) returns text language sql stable as $$
    select concat_ws(E'\n', tenant_id, mode, book, id,
        octet_length(source_key) || ':' || source_key, encode(content_hash, 'hex'),
        (extract(epoch from effective_at) * 1000000)::bigint,
        (extract(epoch from booked_at) * 1000000)::bigint,
        causation_id, octet_length(rule) || ':' || rule, rule_version,
        coalesce(reverses::text, ''), postings)
$$;

create function link(previous bytea, seq bigint, content text) returns bytea
language sql stable as $$
    select sha256(previous || convert_to(
        concat_ws(E'\n', 'sluice.ledger.1', seq, content), 'UTF8'))
$$;

-- Where the chain of a book stands, and how far its head was told on `ledger.events`.
create table book_chain (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    last_seq bigint not null check (last_seq > 0),
    last_hash bytea not null check (length(last_hash) = 32),
    anchored_seq bigint not null default 0 check (anchored_seq between 0 and last_seq),
    anchored_at timestamptz not null default '-infinity',
    primary key (tenant_id, mode, book)
) with (fillfactor = 50);
create index book_chain_anchored on book_chain (anchored_at, tenant_id, mode, book);
select isolate_by_book('book_chain');

-- Sums over each thousand or so (1,024) postings of an account, made when the last of them is
-- booked. What is older or younger than a time as a whole is added up without reading it.
create table posting_block (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    account text not null,
    currency text not null,
    block bigint not null check (block >= 0),
    change_minor bigint not null,
    effective_from timestamptz not null,
    effective_to timestamptz not null,
    booked_from timestamptz not null,
    booked_to timestamptz not null,
    primary key (tenant_id, mode, book, account, currency, block)
);
select isolate_by_book('posting_block');
create trigger immutable before update or delete or truncate on posting_block
    for each statement execute function refuse_change();

-- What is booked already is chained in the order of its ids, which are of the time of booking. The
-- owner passes by its own rules for this moment only.
alter table journal_entry no force row level security;
alter table posting no force row level security;
alter table book_chain no force row level security;
alter table posting_block no force row level security;
alter table journal_entry disable trigger immutable;
alter table posting disable trigger immutable;

update posting p set effective_at = e.effective_at, booked_at = e.booked_at
from journal_entry e
where e.tenant_id = p.tenant_id and e.mode = p.mode and e.book = p.book and e.id = p.entry_id;

do $$
declare
    entry record;
    tenant uuid;
    in_mode text;
    of_book text;
    seq bigint;
    head bytea;
begin
    for entry in
        select e.tenant_id, e.mode, e.book, e.id,
            entry_text(e.tenant_id, e.mode, e.book, e.id, e.source_key, e.content_hash,
                e.effective_at, e.booked_at, e.causation_id, e.rule, e.rule_version, null,
                (select string_agg(posting_text(p.account, p.currency, p.account_seq, p.side,
                    p.amount_minor, p.balance_after_minor), E'\n' order by p.line)
                 from posting p where p.tenant_id = e.tenant_id and p.mode = e.mode
                     and p.book = e.book and p.entry_id = e.id)) as content
        from journal_entry e order by e.tenant_id, e.mode, e.book, e.id
    loop
        if (entry.tenant_id, entry.mode, entry.book) is distinct from (tenant, in_mode, of_book)
        then
            tenant := entry.tenant_id;
            in_mode := entry.mode;
            of_book := entry.book;
            seq := 0;
            head := decode(repeat('00', 32), 'hex');
        end if;
        seq := seq + 1;
        head := link(head, seq, entry.content);
        update journal_entry e set chain_seq = seq, chain_hash = head
        where e.tenant_id = tenant and e.mode = in_mode and e.book = of_book and e.id = entry.id;
    end loop;
end $$;

insert into book_chain (tenant_id, mode, book, last_seq, last_hash)
select distinct on (tenant_id, mode, book) tenant_id, mode, book, chain_seq, chain_hash
from journal_entry order by tenant_id, mode, book, chain_seq desc;

insert into posting_block (tenant_id, mode, book, account, currency, block, change_minor,
    effective_from, effective_to, booked_from, booked_to)
select tenant_id, mode, book, account, currency, (account_seq - 1) / 1024,
       sum(case side when 'debit' then amount_minor else -amount_minor end),
       min(effective_at), max(effective_at), min(booked_at), max(booked_at)
from posting group by tenant_id, mode, book, account, currency, (account_seq - 1) / 1024
having count(*) = 1024;

alter table journal_entry enable trigger immutable;
alter table posting enable trigger immutable;
alter table journal_entry force row level security;
alter table posting force row level security;
alter table book_chain force row level security;
alter table posting_block force row level security;

-- Nobody is at work on these tables: their rows are looked through at once.
-- squawk-ignore constraint-missing-not-valid
alter table journal_entry add constraint journal_entry_chained
    check (chain_seq is not null and chain_seq > 0 and chain_hash is not null
           and length(chain_hash) = 32);
-- squawk-ignore constraint-missing-not-valid
alter table posting add constraint posting_timed
    check (effective_at is not null and booked_at is not null);

-- squawk-ignore require-concurrent-index-creation
create unique index journal_entry_chain on journal_entry (tenant_id, mode, book, chain_seq);
-- An entry is reversed once, within its book.
-- squawk-ignore constraint-missing-not-valid, adding-foreign-key-constraint
alter table journal_entry add constraint journal_entry_reversed
    foreign key (tenant_id, mode, book, reverses)
    references journal_entry (tenant_id, mode, book, id);
-- squawk-ignore require-concurrent-index-creation
create unique index journal_entry_reverses on journal_entry (tenant_id, mode, book, reverses)
    where reverses is not null;

revoke insert, update, delete on book_chain, posting_block from sluice_ledger;
grant update (anchored_seq, anchored_at) on book_chain to sluice_ledger;

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
