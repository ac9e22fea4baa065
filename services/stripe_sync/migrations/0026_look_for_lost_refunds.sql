-- migrate:up

-- Refunds of which nobody could tell for a day what came of them: looked for again until Stripe says.
-- squawk-ignore require-concurrent-index-creation
create index payment_request_lost on payment_request (next_try_at)
    where state = 'refused' and kind = 'refund' and refusal = 'outcome_unknown';
