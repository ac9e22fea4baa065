-- migrate:up

-- What is due on final invoices, as billing told it last: so that a payment whose invoice billing should
-- have called paid is told from one of a part. Invoices from before have no row.
create table final_invoice (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    invoice_id uuid not null,
    stripe_invoice_id text not null,
    due_minor bigint not null,
    sequence integer not null,
    primary key (tenant_id, mode, invoice_id)
);
create index final_invoice_stripe on final_invoice (tenant_id, mode, stripe_invoice_id);
select isolate('final_invoice');
select open_to_maintenance('final_invoice');

-- In whose book an invoice belongs that is paid and not booked; not known of what was told before.
alter table paid_invoice add column book text check (book in ('platform', 'tenant'));
-- squawk-ignore require-concurrent-index-creation
create index paid_invoice_stripe on paid_invoice (tenant_id, mode, stripe_invoice_id);

-- Since when money has stood on clearing accounts and in suspense, first in, first out. All postings of
-- the balance's side up to `gone_seq` have left again, `gone_minor` together; `known_seq` is the
-- account's last posting when this was so, 0 while not all of it is read.
create table money_age (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    account text not null,
    currency text not null,
    side text not null check (side in ('debit', 'credit')),
    gone_seq bigint not null,
    gone_minor bigint not null,
    known_seq bigint not null,
    since timestamptz,
    primary key (tenant_id, mode, book, account, currency, side)
);
select isolate('money_age');
select open_to_maintenance('money_age');
