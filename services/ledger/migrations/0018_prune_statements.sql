-- migrate:up

-- Of a statement that was compared the lines are dropped after some days: each day's list holds most
-- of the day's before. What stays is what it said in sum, its digest, and that each of its movements
-- was listed.
alter table statement add column dropped_at timestamptz;
-- squawk-ignore require-concurrent-index-creation
create index statement_kept on statement (requested_at) where dropped_at is null;
select open_to_maintenance('statement');
select open_to_maintenance('statement_part');
select open_to_maintenance('statement_line');
select open_to_maintenance('statement_payout');
