-- migrate:up

-- An exchange of a code for access at Stripe is settled when its account is connected or was given
-- back; until then it is due for a look.
alter table connect_state add column exchanged_account text;
alter table connect_state add column settle_due_at timestamptz;

-- Whose session ended, and with which version of the tenant's record: where more ended than the
-- record names one by one, it voids by person and by version.
alter table session_revocation add column user_id uuid;
alter table session_revocation add column version bigint;

-- The platform's share, copied from the configuration `fees`; null: not copied yet. The version is that
-- of the platform's own setting, which holds for every tenant that sets nothing else.
alter table stripe_connection add column application_fee_fixed_minor bigint
    check (application_fee_fixed_minor >= 0);
alter table stripe_connection add column application_fee_currency text;
alter table stripe_connection add column platform_fees_version integer;
