-- migrate:up

-- Where an object that was marked stands in Stripe's list, as far as its event told, and how old the
-- latest news of it are: of a backlog many objects are read in one list.
alter table dirty_object
    add column made_at timestamptz,
    add column told_at timestamptz not null default now();
comment on column dirty_object.made_at is
    'When the object was made, or something that was made after it; null: nobody told.';
comment on column dirty_object.told_at is
    'When the latest change happened that is known; of an event: its time at Stripe.';
