-- migrate:up

-- The e-mail of the customer that is the tenant itself stands in the tenant's record, where it can be
-- erased. The owner sees all rows for this moment only.
alter table customer no force row level security;
update customer set email = null where billed_by = 'platform' and email is not null;
alter table customer force row level security;
