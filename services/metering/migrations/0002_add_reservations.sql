-- migrate:up

-- Use that is promised before it happens. `weight` is what of it still weighs on the limit: what is
-- held, and after settling what is not yet among the counted usage. It goes down in the transaction
-- that counts, so that at no moment a quantity weighs nowhere.
create table reservation (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    meter_id uuid not null,
    customer text not null,
    subject text,
    user_id text,
    amount numeric not null check (amount > 0),
    settled_amount numeric,
    weight numeric not null check (weight >= 0),
    state text not null check (state in ('held', 'settling', 'settled', 'released', 'expired')),
    events bytea[] not null default '{}',
    created_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    tried_at timestamptz,
    primary key (tenant_id, mode, id)
);
create index reservation_weight on reservation (tenant_id, mode, meter_id, customer)
    where weight > 0;
create index reservation_unpublished on reservation (ended_at) where state = 'settling';
create index reservation_expiring on reservation (expires_at) where state = 'held';
select isolate('reservation');
select open_to_maintenance('reservation');
