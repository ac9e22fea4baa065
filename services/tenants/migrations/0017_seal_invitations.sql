-- migrate:up

-- Whom an invitation is for, and where a tenant's bills go, stand sealed under a key of the row's own,
-- and are found by a keyed digest. What stands in the clear from before is sealed by the job
-- `seal_people`.
alter table invitation add column email_digest bytea check (length(email_digest) = 32);
alter table invitation add column personal bytea;
alter table invitation add column wrapped bytea;
-- squawk-ignore ban-drop-not-null
alter table invitation alter column email drop not null;
-- squawk-ignore require-concurrent-index-creation
create unique index invitation_open_digest on invitation (tenant_id, email_digest)
    where accepted_at is null and revoked_at is null;
-- squawk-ignore require-concurrent-index-creation
create index invitation_email_digest on invitation (email_digest);
-- squawk-ignore require-concurrent-index-creation
create index invitation_unsealed on invitation (tenant_id, invitation_id) where email is not null;

alter table tenant add column billing_email_digest bytea check (length(billing_email_digest) = 32);
alter table tenant add column billing_personal bytea;
alter table tenant add column billing_wrapped bytea;
-- squawk-ignore require-concurrent-index-creation
create index tenant_unsealed on tenant (tenant_id) where billing_email is not null;
