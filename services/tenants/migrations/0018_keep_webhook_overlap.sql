-- migrate:up

-- How long the webhook before goes on to be taken once the wanted one is registered; null: as long as
-- may be. It stands here because an attempt that fails is made again by a job, which must know it.
alter table stripe_connection add column webhook_overlap_seconds integer
    check (webhook_overlap_seconds >= 0);
