-- migrate:up

-- What was told of a balance transaction, so that it can be told again in the same words. Rows from
-- before were told by their columns.
alter table balance_transaction add column told jsonb;

-- Of which invoices payments are.
-- squawk-ignore require-concurrent-index-creation
create index payment_of_invoice on payment (tenant_id, mode, account, stripe_invoice_id)
    where stripe_invoice_id is not null;

-- Requests to tell money facts again, each answered once.
create table telling_again (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    request_id uuid not null,
    primary key (tenant_id, mode, request_id)
);
select isolate('telling_again');
revoke update, delete on telling_again from sluice_stripe_sync;
