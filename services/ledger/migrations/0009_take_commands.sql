-- migrate:up

-- What was said of an entry that somebody asked for, beside what is booked: the books keep entry and
-- postings, this the caller's own words and who it was.
create table asked_entry (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    entry_id uuid not null,
    metadata jsonb not null,
    asked_by text not null,
    primary key (tenant_id, mode, book, entry_id),
    foreign key (tenant_id, mode, book, entry_id)
        references journal_entry (tenant_id, mode, book, id)
);
select isolate_by_book('asked_entry');
revoke update, delete on asked_entry from sluice_ledger;

-- Accounts that a book opened for itself, with what they are for.
create table own_account (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    code text not null,
    purpose text not null check (length(purpose) between 1 and 200),
    opened_at timestamptz not null,
    opened_by text not null,
    primary key (tenant_id, mode, book, code),
    foreign key (tenant_id, mode, book, code) references account (tenant_id, mode, book, code)
);
select isolate_by_book('own_account');
revoke update, delete on own_account from sluice_ledger;
