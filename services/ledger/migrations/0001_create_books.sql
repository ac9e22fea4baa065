-- migrate:up

-- Row-level security of a table of the books: tenant, mode and book. A tenant's members have only
-- the book `tenant` in scope. The maintenance role, which serves operators, may read every book.
create function isolate_by_book(target regclass) returns void
language plpgsql as $$
begin
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format('create policy tenant_isolation on %s using ('
        'tenant_id = any ((select string_to_array(nullif('
        'current_setting(''app.tenants'', true), ''''), '','')::uuid[])::uuid[])'
        ' and mode = (select nullif(current_setting(''app.mode'', true), ''''))'
        ' and book = any ((select string_to_array(nullif('
        'current_setting(''app.books'', true), ''''), '',''))::text[]))', target);
    execute format('grant select on %s to sluice_ledger_maintenance', target);
    execute format('create policy operators on %s for select to sluice_ledger_maintenance '
        'using (true)', target);
end $$;

-- The chart of accounts of each book. The code begins with the type: `asset:receivable`.
create table account (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    code text not null check (code ~ '^[a-z]+(:[A-Za-z0-9_]+)+$'),
    type text not null check (type in ('asset', 'liability', 'equity', 'revenue', 'expense')),
    normal_side text not null check (normal_side in ('debit', 'credit')),
    primary key (tenant_id, mode, book, code),
    check (code like type || ':%')
);
select isolate_by_book('account');
revoke update, delete on account from sluice_ledger;

-- One money fact, booked once. The source key names the fact; the hash tells what was booked for it.
create table journal_entry (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    id uuid not null,
    source_key text not null check (length(source_key) between 1 and 500),
    content_hash bytea not null check (length(content_hash) = 32),
    effective_at timestamptz not null,
    booked_at timestamptz not null,
    causation_id uuid not null,
    rule text not null,
    rule_version integer not null check (rule_version > 0),
    primary key (tenant_id, mode, book, id),
    unique (tenant_id, mode, book, source_key)
);
select isolate_by_book('journal_entry');
-- Operators read a whole book, newest first.
create index journal_entry_newest on journal_entry (book, mode, id);

-- One side of an account. The numbers of an account have no holes; balance_after_minor is debits
-- less credits of the account and currency up to and including this posting.
create table posting (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    account text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    account_seq bigint not null check (account_seq > 0),
    entry_id uuid not null,
    line smallint not null check (line > 0),
    side text not null check (side in ('debit', 'credit')),
    amount_minor bigint not null check (amount_minor > 0),
    balance_after_minor bigint not null,
    primary key (tenant_id, mode, book, account, currency, account_seq),
    unique (tenant_id, mode, book, entry_id, line),
    foreign key (tenant_id, mode, book, entry_id)
        references journal_entry (tenant_id, mode, book, id),
    foreign key (tenant_id, mode, book, account) references account (tenant_id, mode, book, code)
);
select isolate_by_book('posting');

-- The fold of an account's postings. Rows are updated in place again and again: room for that.
create table account_balance (
    tenant_id uuid not null,
    mode text not null,
    book text not null,
    account text not null,
    currency text not null,
    debit_minor bigint not null check (debit_minor >= 0),
    credit_minor bigint not null check (credit_minor >= 0),
    last_seq bigint not null check (last_seq > 0),
    primary key (tenant_id, mode, book, account, currency),
    foreign key (tenant_id, mode, book, account) references account (tenant_id, mode, book, code)
) with (fillfactor = 50);
select isolate_by_book('account_balance');

-- What is booked stays: for everybody, the owner included.
create function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception 'the rows of % are never changed: book a reversing entry', tg_table_name
        using errcode = 'SL003';
end $$;
create trigger immutable before update or delete or truncate on journal_entry
    for each statement execute function refuse_change();
create trigger immutable before update or delete or truncate on posting
    for each statement execute function refuse_change();
create trigger immutable before update or delete or truncate on account
    for each statement execute function refuse_change();

-- Postings come balanced or not at all, by entry and currency, within one statement.
create function refuse_unbalanced() returns trigger
language plpgsql as $$
declare
    unbalanced record;
begin
    select entry_id, currency,
           sum(case side when 'debit' then amount_minor else -amount_minor end) as difference
    into unbalanced
    from added group by tenant_id, mode, book, entry_id, currency
    having sum(case side when 'debit' then amount_minor else -amount_minor end) <> 0 limit 1;
    if found then
        raise exception 'entry % does not balance: % % more debit than credit',
            unbalanced.entry_id, unbalanced.difference, unbalanced.currency
            using errcode = 'SL001';
    end if;
    return null;
end $$;
create trigger balanced after insert on posting referencing new table as added
    for each statement execute function refuse_unbalanced();

-- The only way to book. Entries whose source key is booked already are passed over, where their
-- content is the same. Answers the ids of the entries that were booked now.
--
-- The lock comes first: postings are numbered, and their balances carried on, by one writer of a
-- book at a time. Balances are touched in sorted order.
create function post_entries(
    entry_tenants uuid[], entry_books text[], entry_ids uuid[], entry_source_keys text[],
    entry_hashes bytea[], entry_effective_ats timestamptz[], entry_booked_ats timestamptz[],
    entry_causations uuid[], entry_rules text[], entry_rule_versions integer[],
    line_entries uuid[], line_accounts text[], line_sides text[], line_amounts bigint[],
    line_currencies text[]
) returns setof uuid
language plpgsql security definer as $$
declare
    in_mode text := current_setting('app.mode');
    booked uuid[];
    contradicted text;
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

    with added as (
        insert into journal_entry (tenant_id, mode, book, id, source_key, content_hash,
            effective_at, booked_at, causation_id, rule, rule_version)
        select t, in_mode, b, i, k, h, e, o, c, r, v
        from unnest(entry_tenants, entry_books, entry_ids, entry_source_keys, entry_hashes,
                entry_effective_ats, entry_booked_ats, entry_causations, entry_rules,
                entry_rule_versions) with ordinality as u(t, b, i, k, h, e, o, c, r, v, n)
        order by n
        on conflict (tenant_id, mode, book, source_key) do nothing
        returning id)
    select coalesce(array_agg(id), '{}') into booked from added;

    if cardinality(booked) < cardinality(entry_ids) then
        select u.k into contradicted
        from unnest(entry_tenants, entry_books, entry_source_keys, entry_hashes) as u(t, b, k, h)
        join journal_entry j on j.tenant_id = u.t and j.mode = in_mode and j.book = u.b
            and j.source_key = u.k
        where j.content_hash <> u.h limit 1;
        if found then
            raise exception '% is booked already with other content', contradicted
                using errcode = 'SL002';
        end if;
    end if;

    with line as (
        select e.t as tenant_id, e.b as book, l.a as account, l.c as currency, e.i as entry_id,
               l.s as side, l.m as amount_minor, l.n,
               row_number() over (partition by e.i order by l.n) as line,
               case l.s when 'debit' then l.m else 0 end as debit_minor,
               case l.s when 'credit' then l.m else 0 end as credit_minor
        from unnest(line_entries, line_accounts, line_sides, line_amounts, line_currencies)
            with ordinality as l(i, a, s, m, c, n)
        join unnest(entry_tenants, entry_books, entry_ids) as e(t, b, i) on e.i = l.i
        join unnest(booked) as k(i) on k.i = l.i
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
    )
    insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id, line,
        side, amount_minor, balance_after_minor)
    select l.tenant_id, in_mode, l.book, l.account, l.currency,
           m.last_seq - count(*) over whole + row_number() over so_far,
           l.entry_id, l.line, l.side, l.amount_minor,
           m.balance_minor - sum(l.debit_minor - l.credit_minor) over whole
               + sum(l.debit_minor - l.credit_minor) over so_far
    from line l join moved m using (tenant_id, book, account, currency)
    window whole as (partition by l.tenant_id, l.book, l.account, l.currency),
           so_far as (partition by l.tenant_id, l.book, l.account, l.currency order by l.n
                      rows unbounded preceding);

    return query select unnest(booked);
end $$;
do $$
begin
    execute format('alter function post_entries(uuid[], text[], uuid[], text[], bytea[], '
        'timestamptz[], timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], '
        'text[]) set search_path = %I, pg_temp', current_schema());
end $$;

-- The service books by the function alone.
revoke insert, update, delete on journal_entry, posting, account_balance from sluice_ledger;
revoke all on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[]) from public;
grant execute on function post_entries(uuid[], text[], uuid[], text[], bytea[], timestamptz[],
    timestamptz[], uuid[], text[], integer[], uuid[], text[], text[], bigint[], text[])
    to sluice_ledger;
