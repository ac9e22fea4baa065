-- migrate:up

-- An event of an account that nobody has connected yet goes to its tenant when somebody has. What
-- Stripe sent stays as it is.
grant update (tenant_id, assignment, quarantine_reason) on webhook_event to sluice_gateway;
-- squawk-ignore require-concurrent-index-creation
create index webhook_event_waiting on webhook_event (account, mode)
    where quarantine_reason = 'unknown_account';
