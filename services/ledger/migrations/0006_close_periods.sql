-- migrate:up

-- Closing and reopening months of a book, step by step: the last step of a month holds. A book is
-- closed up to the end of its last closed month, all that lies before included.
create table period_step (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    period text not null check (period ~ '^[12][0-9]{3}-(0[1-9]|1[0-2])$'),
    step integer not null check (step > 0),
    kind text not null check (kind in ('close', 'reopen')),
    ends_at timestamptz not null,
    taken_at timestamptz not null,
    taken_by text not null,
    reason text not null,
    chain_seq bigint not null,
    primary key (tenant_id, mode, book, period, step)
);
select isolate_by_book('period_step');
revoke update, delete on period_step from sluice_ledger;
create trigger immutable before update or delete or truncate on period_step
    for each statement execute function refuse_change();

-- The open month's entries of facts that belong to a closed one, with the time at which each held.
create table late_entry (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    entry_id uuid not null,
    belongs_to text not null check (belongs_to ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    true_effective_at timestamptz not null,
    primary key (tenant_id, mode, book, entry_id),
    foreign key (tenant_id, mode, book, entry_id)
        references journal_entry (tenant_id, mode, book, id)
);
create index late_entry_period on late_entry (tenant_id, mode, book, belongs_to, entry_id);
select isolate_by_book('late_entry');
revoke update, delete on late_entry from sluice_ledger;
create trigger immutable before update or delete or truncate on late_entry
    for each statement execute function refuse_change();

-- Lock books, each as `post_entries` does, and say since when each is open; a book of which nothing is
-- closed is not among them. Statement by statement: what is closed is read when the locks are held.
create function lock_books(tenants uuid[], books text[])
returns table (tenant_id uuid, book text, open_from timestamptz)
language plpgsql as $$
declare
    in_mode constant text := current_setting('app.mode');
begin
    perform pg_advisory_xact_lock(hashtextextended(concat_ws('/', 'book', t, in_mode, b), 0))
    from (select distinct t, b from unnest(tenants, books) as u(t, b) order by t, b) as sorted;
    return query
        select last.tenant_id, last.book, max(last.ends_at)
        from (select distinct on (p.tenant_id, p.book, p.period)
                  p.tenant_id, p.book, p.ends_at, p.kind
              from period_step p
              where p.tenant_id = any (tenants) and p.mode = in_mode and p.book = any (books)
              order by p.tenant_id, p.book, p.period, p.step desc) as last
        where last.kind = 'close'
        group by last.tenant_id, last.book;
end $$;

-- Nothing is booked into a closed month, whoever books: its sums stay as they are.
create function refuse_closed() returns trigger
language plpgsql
set enable_seqscan = off
as $$
declare
    refused record;
begin
    if not exists (select from period_step) then
        return null;
    end if;
    select a.source_key, a.effective_at into refused
    from added a join (
        select last.tenant_id, last.mode, last.book, max(last.ends_at) as open_from
        from (select distinct on (p.tenant_id, p.mode, p.book, p.period) p.*
              from period_step p
              join (select distinct tenant_id, mode, book from added) b
                  using (tenant_id, mode, book)
              order by p.tenant_id, p.mode, p.book, p.period, p.step desc) as last
        where last.kind = 'close'
        group by last.tenant_id, last.mode, last.book) closed using (tenant_id, mode, book)
    where a.effective_at < closed.open_from limit 1;
    if found then
        raise exception '% is of %, and that month is closed', refused.source_key,
            refused.effective_at using errcode = 'SL005';
    end if;
    return null;
end $$;
do $$
begin
    execute format('alter function refuse_closed() set search_path = %I, pg_temp',
        current_schema());
end $$;
create trigger open_only after insert on journal_entry referencing new table as added
    for each statement execute function refuse_closed();
