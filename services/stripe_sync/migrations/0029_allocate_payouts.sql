-- migrate:up

-- Payouts that Stripe made of the platform's balance by itself: whose money each was made of is told
-- once, and once more the other way round where the payout comes back. The shares are kept for that.
create table payout_allocation (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    account text not null,
    stripe_payout_id text not null,
    state text not null default 'due'
        check (state in ('due', 'told', 'taken_back', 'needless', 'failed')),
    came_back boolean not null default false,
    shares jsonb not null default '[]',
    attempts integer not null default 0,
    next_try_at timestamptz not null,
    last_error text,
    primary key (tenant_id, mode, account, stripe_payout_id)
);
create index payout_allocation_due on payout_allocation (next_try_at)
    where state = 'due' or (state = 'told' and came_back);
select isolate('payout_allocation');
select open_to_maintenance('payout_allocation');
revoke delete on payout_allocation from sluice_stripe_sync;
