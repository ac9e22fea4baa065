-- migrate:up

-- Replays under way take turns, the one served longest ago first; and what each chooses is counted
-- page by page by the job that sends it. Those of before were counted when they began.
alter table webhook_replay add column served_at timestamptz;
alter table webhook_replay add column counted_at timestamptz;
alter table webhook_replay add column counted_id uuid;
alter table webhook_replay add column is_counted boolean not null default true;
alter table webhook_replay alter column is_counted set default false;

-- How far the archive was gone through for a customer that was erased. Those of before were forgotten
-- in one statement.
alter table erased_customer add column entered_at timestamptz not null default 'epoch';
alter table erased_customer add column reached_at timestamptz;
alter table erased_customer add column reached_id uuid;
alter table erased_customer add column is_forgotten boolean not null default true;
alter table erased_customer alter column is_forgotten set default false;
-- squawk-ignore require-concurrent-index-creation
create index erased_customer_left on erased_customer (entered_at) where not is_forgotten;
select open_to_maintenance('erased_customer');
grant update (reached_at, reached_id, is_forgotten) on erased_customer to sluice_gateway;
