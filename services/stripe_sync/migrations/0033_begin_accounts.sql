-- migrate:up

-- From when on what moves on a tenant's Stripe account is ours: since the tenant connected it first.
-- Never changed: connecting it again, or with other keys, does not move it.
create table account_beginning (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    account text not null,
    ours_from timestamptz not null,
    primary key (tenant_id, mode, account)
);
-- Of accounts that are connected already: since their balance transactions are listed. The owner sees
-- all rows for this moment only.
alter table seen_connection no force row level security;
insert into account_beginning (tenant_id, mode, account, ours_from)
select s.tenant_id, s.mode, w.account, date_trunc('second', min(w.enrolled_at) - interval '15 minutes')
from seen_connection s join walk w on w.mode = s.mode and w.account = s.state ->> 'account_id'
group by s.tenant_id, s.mode, w.account;
alter table seen_connection force row level security;
select isolate('account_beginning');
revoke update, delete on account_beginning from sluice_stripe_sync;
