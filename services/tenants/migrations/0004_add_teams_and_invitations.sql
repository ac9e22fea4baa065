-- migrate:up

alter table tenant add column tax_region text;

-- Whether a subscription was ever on another plan than the free one: the currency is settled then.
alter table platform_subscription add column was_paid boolean not null default false;
alter table platform_subscription no force row level security;
update platform_subscription set was_paid = true where plan_key <> 'free';
alter table platform_subscription force row level security;

-- What a member may do beyond its role.
alter table member add column permissions text[] not null default '{}';

-- A tenant that has owners keeps one. The tenant's row is locked first, so that two who remove each
-- other's last one wait for each other, and the second is refused.
create function keep_an_owner() returns trigger language plpgsql as $$
begin
    perform from tenant where tenant_id = old.tenant_id for update;
    if not exists (select from member where tenant_id = old.tenant_id and role = 'owner') then
        raise exception 'a tenant keeps its last owner'
            using errcode = 'check_violation', constraint = 'member_last_owner';
    end if;
    return null;
end $$;
create trigger member_last_owner_removed after delete on member
    for each row when (old.role = 'owner') execute function keep_an_owner();
create trigger member_last_owner_demoted after update of role, tenant_id on member
    for each row when (old.role = 'owner' and (new.role, new.tenant_id)
        is distinct from (old.role, old.tenant_id)) execute function keep_an_owner();

-- Members who lost rights a moment ago: assertions made for an earlier version are void.
create table member_revocation (
    tenant_id uuid not null references tenant (tenant_id),
    user_id uuid not null,
    version bigint not null,
    revoked_at timestamptz not null,
    primary key (tenant_id, user_id)
);
create index member_revocation_revoked_at on member_revocation (revoked_at);
select isolate('member_revocation', with_mode => false);
select open_to_maintenance('member_revocation');

create table team (
    tenant_id uuid not null references tenant (tenant_id),
    team_id uuid not null,
    name text not null,
    -- The one that everybody joins who accepts an invitation to a `user` tenant.
    everyone boolean not null default false,
    created_by text not null,
    created_at timestamptz not null,
    primary key (tenant_id, team_id)
);
create unique index team_name on team (tenant_id, lower(name));
create unique index team_everyone on team (tenant_id) where everyone;
select isolate('team', with_mode => false);

create table team_member (
    tenant_id uuid not null,
    team_id uuid not null,
    user_id uuid not null,
    joined_at timestamptz not null,
    primary key (tenant_id, team_id, user_id),
    foreign key (tenant_id, team_id) references team (tenant_id, team_id) on delete cascade,
    foreign key (tenant_id, user_id) references member (tenant_id, user_id) on delete cascade
);
create index team_member_user on team_member (tenant_id, user_id);
select isolate('team_member', with_mode => false);

-- `vouched`: made by an operator for an owner, who may set a password with it.
create table invitation (
    tenant_id uuid not null references tenant (tenant_id),
    invitation_id uuid not null,
    token_hash bytea not null check (length(token_hash) = 32),
    email text not null check (email = lower(email)),
    role text not null check (role in ('owner', 'admin', 'billing_admin', 'member')),
    permissions text[] not null default '{}',
    vouched boolean not null default false,
    created_by text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    accepted_at timestamptz,
    accepted_by uuid,
    revoked_at timestamptz,
    primary key (tenant_id, invitation_id),
    unique (tenant_id, token_hash)
);
create unique index invitation_open on invitation (tenant_id, email)
    where accepted_at is null and revoked_at is null;
create index invitation_token on invitation (token_hash);
create index invitation_expires_at on invitation (expires_at);
create index invitation_created_at on invitation (tenant_id, created_at, invitation_id);
select isolate('invitation', with_mode => false);
create policy look_up on invitation for select to sluice_lookup using (true);
grant select on invitation to sluice_lookup;
select open_to_maintenance('invitation');

-- A password is never changed, a newer one takes its place; without a hash there is none any more.
create table user_password (
    user_id uuid not null references user_account (user_id) on delete cascade,
    password_id uuid not null,
    password_hash text,
    set_at timestamptz not null,
    primary key (user_id, password_id)
);
alter table user_password enable row level security;
alter table user_password force row level security;
create policy set_password on user_password for insert with check (true);
create policy look_up on user_password for select to sluice_lookup using (true);
grant select on user_password to sluice_lookup;
revoke update, delete on user_password from sluice_tenants;
select open_to_maintenance('user_password');

-- The e-mail is known to be the user's: an identity provider or an operator has vouched for it.
create table user_email_proof (
    user_id uuid primary key references user_account (user_id) on delete cascade,
    proved_at timestamptz not null
);
alter table user_email_proof enable row level security;
alter table user_email_proof force row level security;
create policy prove on user_email_proof for insert with check (true);
create policy look_up on user_email_proof for select to sluice_lookup using (true);
grant select on user_email_proof to sluice_lookup;
revoke update, delete on user_email_proof from sluice_tenants;

-- Who a person is at an identity provider (OpenID Connect Core, section 2: iss and sub).
create table user_identity (
    issuer text not null,
    subject text not null,
    user_id uuid not null references user_account (user_id) on delete cascade,
    linked_at timestamptz not null,
    primary key (issuer, subject)
);
create unique index user_identity_user on user_identity (user_id, issuer);
alter table user_identity enable row level security;
alter table user_identity force row level security;
create policy link_identity on user_identity for insert with check (true);
create policy look_up on user_identity for select to sluice_lookup using (true);
grant select on user_identity to sluice_lookup;
revoke update, delete on user_identity from sluice_tenants;

-- A sign-in at an identity provider under way: two hashes and a path of ours, of nobody's tenant.
create table oidc_sign_in (
    state_hash bytea primary key check (length(state_hash) = 32),
    browser_hash bytea not null check (length(browser_hash) = 32),
    return_to text not null,
    expires_at timestamptz not null
);
create index oidc_sign_in_expires_at on oidc_sign_in (expires_at);
select open_to_maintenance('oidc_sign_in');

alter table session add column address text;

-- When a session was last used, to the quarter of an hour.
create table session_use (
    session_id uuid not null references session (session_id) on delete cascade,
    used_at timestamptz not null,
    primary key (session_id, used_at)
);
alter table session_use enable row level security;
alter table session_use force row level security;
create policy use_session on session_use for insert with check (true);
create policy look_up on session_use for select to sluice_lookup using (true);
grant select on session_use to sluice_lookup;
revoke update, delete on session_use from sluice_tenants;

-- Exact look-ups before a tenant is known, as a role that can do nothing else. The newest password
-- is the one that counts. (0002's find_user_by_email and find_memberships stay for processes that
-- still run the code before this file.)
create function find_account(wanted text)
returns table (user_id uuid, email text, name text, password_hash text, email_proved boolean)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select u.user_id, u.email, u.name,
            case when p.user_id is null then u.password_hash else p.password_hash end,
            exists (select from user_email_proof e where e.user_id = u.user_id)
        from user_account u
        left join lateral (
            select n.user_id, n.password_hash from user_password n where n.user_id = u.user_id
            order by n.set_at desc, n.password_id desc limit 1) p on true
        where u.email = wanted;
end $$;

create function find_places(wanted uuid)
returns table (tenant_id uuid, role text, permissions text[])
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select m.tenant_id, m.role, m.permissions from member m where m.user_id = wanted
        order by m.created_at, m.tenant_id limit 100;
end $$;

create function find_invitation(wanted bytea) returns table (tenant_id uuid, invitation_id uuid)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select i.tenant_id, i.invitation_id from invitation i where i.token_hash = wanted;
end $$;

create function find_identity(wanted_issuer text, wanted_subject text) returns table (user_id uuid)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select i.user_id from user_identity i
        where i.issuer = wanted_issuer and i.subject = wanted_subject;
end $$;

create function has_identity(wanted_user uuid, wanted_issuer text) returns boolean
language plpgsql stable security definer as $$
begin
    return exists (select from user_identity i
        where i.user_id = wanted_user and i.issuer = wanted_issuer);
end $$;

create function find_sessions(wanted uuid)
returns table (session_id uuid, created_at timestamptz, expires_at timestamptz, address text,
    used_at timestamptz)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select s.session_id, s.created_at, s.expires_at, s.address,
            (select max(u.used_at) from session_use u where u.session_id = s.session_id)
        from session s
        where s.user_id = wanted
          and not exists (select from session_end e where e.session_id = s.session_id)
        order by s.created_at desc, s.session_id desc limit 1000;
end $$;

do $$
declare
    look_up text;
begin
    foreach look_up in array array['find_account(text)', 'find_places(uuid)',
        'find_invitation(bytea)', 'find_identity(text, text)', 'has_identity(uuid, text)',
        'find_sessions(uuid)']
    loop
        execute format('alter function %s set search_path = %I, pg_temp', look_up, current_schema());
        execute format('revoke execute on function %s from public', look_up);
        execute format('grant execute on function %s to sluice_tenants', look_up);
        execute format('alter function %s owner to sluice_lookup', look_up);
    end loop;
end $$;
