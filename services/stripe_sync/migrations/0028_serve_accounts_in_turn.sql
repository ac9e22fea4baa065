-- migrate:up

-- When an account's marks were last worked on: of those that are due, the one served longest ago is
-- next. Of an account, not of a tenant.
create table account_turn (
    account text not null,
    mode text not null,
    served_at timestamptz not null,
    primary key (account, mode)
);
select open_to_maintenance('account_turn');

-- Since when nobody has the account of a mark; such marks are not kept for ever.
alter table dirty_object add column unclaimed_since timestamptz;
