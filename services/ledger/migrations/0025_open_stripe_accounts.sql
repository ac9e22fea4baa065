-- migrate:up

-- Since when the account is the tenant's, as the statement says; null: always.
alter table statement add column ours_from timestamptz;

-- Tenants' Stripe accounts whose opening balance was taken: what they held when they were connected,
-- also where that was nothing. Whatever no movement explains later is a break.
create table opened_account (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    account text not null,
    ours_from timestamptz not null,
    opened_at timestamptz not null,
    primary key (tenant_id, mode, account)
);
-- Of accounts that were compared before, people have accepted what they held as a break, or may yet.
-- The owner sees all rows for this moment only.
alter table reconciliation no force row level security;
insert into opened_account (tenant_id, mode, account, ours_from, opened_at)
select tenant_id, mode, account, '-infinity', max(ended_at) from reconciliation
where state = 'completed' group by tenant_id, mode, account;
alter table reconciliation force row level security;
select isolate('opened_account');
revoke update, delete on opened_account from sluice_ledger;
