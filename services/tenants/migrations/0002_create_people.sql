-- migrate:up

-- People belong to no tenant. The service may enter them and look one up exactly; no scope shows
-- a list of them.
create table user_account (
    user_id uuid primary key,
    email text not null unique check (email = lower(email)),
    name text,
    password_hash text,
    created_at timestamptz not null
);
alter table user_account enable row level security;
alter table user_account force row level security;
create policy sign_up on user_account for insert with check (true);
create policy look_up on user_account for select to sluice_lookup using (true);
grant select on user_account to sluice_lookup;
revoke update, delete on user_account from sluice_tenants;

create table member (
    tenant_id uuid not null references tenant (tenant_id),
    user_id uuid not null references user_account (user_id),
    role text not null check (role in ('owner', 'admin', 'billing_admin', 'member')),
    created_at timestamptz not null,
    primary key (tenant_id, user_id)
);
create index member_user on member (user_id);
select isolate('member', with_mode => false);
create policy look_up on member for select to sluice_lookup using (true);
grant select on member to sluice_lookup;

-- A session is found by the hash of its cookie only. Ending one adds a row; nothing is changed.
create table session (
    session_id uuid primary key,
    token_hash bytea not null unique check (length(token_hash) = 32),
    user_id uuid not null references user_account (user_id),
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index session_expires_at on session (expires_at);
create index session_user_id on session (user_id);
alter table session enable row level security;
alter table session force row level security;
create policy sign_in on session for insert with check (true);
create policy look_up on session for select to sluice_lookup using (true);
grant select on session to sluice_lookup;
revoke update, delete on session from sluice_tenants;
select open_to_maintenance('session');

create table session_end (
    session_id uuid primary key references session (session_id) on delete cascade,
    ended_at timestamptz not null
);
alter table session_end enable row level security;
alter table session_end force row level security;
create policy sign_out on session_end for insert with check (true);
create policy look_up on session_end for select to sluice_lookup using (true);
grant select on session_end to sluice_lookup;
revoke update, delete on session_end from sluice_tenants;

-- Sessions ended a moment ago, told in the snapshot until every assertion made from them is stale.
create table session_revocation (
    tenant_id uuid not null references tenant (tenant_id),
    session_id uuid not null,
    revoked_at timestamptz not null,
    primary key (tenant_id, session_id)
);
create index session_revocation_revoked_at on session_revocation (revoked_at);
select isolate('session_revocation', with_mode => false);
select open_to_maintenance('session_revocation');

-- Failed sign-ins per e-mail and per address, both as keyed digests: of nobody's tenant, and
-- nothing can be read from them.
create table sign_in_failure (
    kind text not null check (kind in ('email', 'address')),
    digest bytea not null check (length(digest) = 32),
    failures integer not null,
    window_started_at timestamptz not null,
    primary key (kind, digest)
);
create index sign_in_failure_started on sign_in_failure (window_started_at);
select open_to_maintenance('sign_in_failure');

-- Exact look-ups before a tenant is known, as a role that can do nothing else.
create function find_user_by_email(wanted text)
returns table (user_id uuid, email text, name text, password_hash text)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select u.user_id, u.email, u.name, u.password_hash
        from user_account u where u.email = wanted;
end $$;

create function find_user(wanted uuid) returns table (user_id uuid, email text, name text)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select u.user_id, u.email, u.name from user_account u where u.user_id = wanted;
end $$;

create function find_session(wanted bytea)
returns table (session_id uuid, user_id uuid, created_at timestamptz, expires_at timestamptz)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select s.session_id, s.user_id, s.created_at, s.expires_at from session s
        where s.token_hash = wanted
          and not exists (select from session_end e where e.session_id = s.session_id);
end $$;

create function find_memberships(wanted uuid) returns table (tenant_id uuid, role text)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select m.tenant_id, m.role from member m where m.user_id = wanted
        order by m.created_at, m.tenant_id limit 100;
end $$;

do $$
declare
    look_up text;
begin
    foreach look_up in array array['find_user_by_email(text)', 'find_user(uuid)',
        'find_session(bytea)', 'find_memberships(uuid)']
    loop
        execute format('alter function %s set search_path = %I, pg_temp', look_up, current_schema());
        execute format('revoke execute on function %s from public', look_up);
        execute format('grant execute on function %s to sluice_tenants', look_up);
        execute format('alter function %s owner to sluice_lookup', look_up);
    end loop;
end $$;
