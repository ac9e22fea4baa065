-- migrate:up

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

alter table journal_entry add constraint journal_entry_chained
    check (chain_seq is not null and chain_seq > 0 and chain_hash is not null
           and length(chain_hash) = 32) not valid;
alter table posting add constraint posting_timed
    check (effective_at is not null and booked_at is not null) not valid;

-- squawk-ignore require-concurrent-index-creation
create unique index journal_entry_chain on journal_entry (tenant_id, mode, book, chain_seq);
-- An entry is reversed once, within its book.
alter table journal_entry add constraint journal_entry_reversed
    foreign key (tenant_id, mode, book, reverses)
    references journal_entry (tenant_id, mode, book, id) not valid;
-- squawk-ignore require-concurrent-index-creation
create unique index journal_entry_reverses on journal_entry (tenant_id, mode, book, reverses)
    where reverses is not null;

revoke insert, update, delete on book_chain, posting_block from sluice_ledger;
grant update (anchored_seq, anchored_at) on book_chain to sluice_ledger;
