-- migrate:up

-- What became of a final invoice besides being paid, and how often something was told of it since.
-- `dated` tells apart invoices whose date was told when they became final: what they charge for later
-- than that is earned month by month.
alter table invoice
    add column credited_minor bigint not null default 0,
    add column written_off_minor bigint not null default 0,
    add column told_since_final integer not null default 0,
    add column dated boolean not null default false;

-- What of a grant expired unused, and how often something was told of that. Adding what is nothing so
-- far breaks the rule for nobody.
alter table credit_grant
    add column expired_minor bigint not null default 0,
    add column expiries_told integer not null default 0;
-- squawk-ignore constraint-missing-not-valid
alter table credit_grant add constraint credit_grant_left
    check (expired_minor >= 0 and used_minor + expired_minor <= amount_minor);

-- What is due by the clock, and what is due of a tenant whose clock is ahead. A tenant has few grants.
-- squawk-ignore require-concurrent-index-creation
create index credit_grant_expiring on credit_grant (expires_at)
    where expires_at is not null and used_minor + expired_minor < amount_minor;
-- squawk-ignore require-concurrent-index-creation
create index credit_grant_expiring_of_tenant on credit_grant (tenant_id, mode, expires_at)
    where expires_at is not null and used_minor + expired_minor < amount_minor;
grant select on credit_grant to sluice_billing_maintenance;
create policy maintenance on credit_grant for select to sluice_billing_maintenance using (true);

-- Credit that a voided invoice had used, given back to its grants once.
create table credit_return (
    tenant_id uuid not null,
    mode text not null,
    invoice_id uuid not null,
    grant_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    primary key (tenant_id, mode, invoice_id, grant_id),
    foreign key (tenant_id, mode, invoice_id, grant_id)
        references credit_use (tenant_id, mode, invoice_id, grant_id)
);
select isolate('credit_return');
revoke update, delete on credit_return from sluice_billing;
