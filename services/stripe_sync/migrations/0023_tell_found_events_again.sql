-- migrate:up

-- When a found event was told last: one that was not taken in is told again.
alter table found_event add column told_at timestamptz not null default now();

-- Lists that Stripe refused to show in a run over a whole account: kind and reason.
alter table resync add column refused jsonb not null default '{}';
