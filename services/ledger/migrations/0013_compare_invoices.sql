-- migrate:up

-- What was paid of invoices, as billing says, and the payments that say which invoice they pay: the
-- third side of a reconciliation. Invoices from before have no row, and are not compared.
create table paid_invoice (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    invoice_id uuid not null,
    stripe_invoice_id text,
    currency text not null,
    paid_minor bigint not null,
    told_at timestamptz not null,
    primary key (tenant_id, mode, invoice_id)
);
create index paid_invoice_told on paid_invoice (mode, told_at);
select isolate('paid_invoice');
select open_to_maintenance('paid_invoice');
revoke update, delete on paid_invoice from sluice_ledger;

create table invoice_payment (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    source_key text not null,
    stripe_invoice_id text not null,
    currency text not null,
    amount_minor bigint not null,
    primary key (tenant_id, mode, book, source_key)
);
create index invoice_payment_invoice on invoice_payment (tenant_id, mode, stripe_invoice_id);
select isolate_by_book('invoice_payment');
revoke update, delete on invoice_payment from sluice_ledger;
