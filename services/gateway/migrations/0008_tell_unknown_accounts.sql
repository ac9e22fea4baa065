-- migrate:up

-- Stripe accounts whose webhooks wait in quarantine and of which staff were told, so that it is told
-- once. Rows are the platform's, which holds what is nobody's.
create table unknown_account (
    tenant_id uuid not null,
    mode text not null,
    account text not null,
    told_at timestamptz not null,
    primary key (tenant_id, mode, account)
);
select isolate('unknown_account');
select open_to_maintenance('unknown_account');
