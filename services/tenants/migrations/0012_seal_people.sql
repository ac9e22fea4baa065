-- migrate:up

-- A person's e-mail and name stand sealed under a key of the person's own, and the e-mail is found by
-- a keyed digest. Destroying key and digest is the person's erasure, in every copy of this table.
-- What stands in the clear from before is sealed by the job `seal_people`.
alter table user_account add column email_digest bytea check (length(email_digest) = 32);
alter table user_account add column personal bytea;
alter table user_account add column erased_at timestamptz;
-- squawk-ignore ban-drop-not-null
alter table user_account alter column email drop not null;
-- squawk-ignore require-concurrent-index-creation
create unique index user_account_email_digest on user_account (email_digest);
-- squawk-ignore require-concurrent-index-creation
create index user_account_unsealed on user_account (user_id) where email is not null;
select open_to_maintenance('user_account');

create table person_key (
    user_id uuid primary key references user_account (user_id) on delete cascade,
    wrapped bytea not null,
    created_at timestamptz not null
);
alter table person_key enable row level security;
alter table person_key force row level security;
create policy sign_up on person_key for insert with check (true);
create policy look_up on person_key for select to sluice_lookup using (true);
grant select on person_key to sluice_lookup;
revoke update, delete on person_key from sluice_tenants;
select open_to_maintenance('person_key');

-- Erasing a person ends what says who it was elsewhere.
select open_to_maintenance('user_email_proof');
select open_to_maintenance('user_identity');

create function find_person(wanted uuid)
returns table (user_id uuid, email text, name text, personal bytea, wrapped bytea,
    created_at timestamptz)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select u.user_id, u.email, u.name, u.personal, k.wrapped, u.created_at
        from user_account u left join person_key k on k.user_id = u.user_id
        where u.user_id = wanted;
end $$;

create function find_sealed_account(wanted_digest bytea, wanted_email text)
returns table (user_id uuid, email text, name text, personal bytea, wrapped bytea,
    password_hash text, email_proved boolean)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select u.user_id, u.email, u.name, u.personal, k.wrapped,
            case when p.user_id is null then u.password_hash else p.password_hash end,
            exists (select from user_email_proof e where e.user_id = u.user_id)
        from user_account u
        left join person_key k on k.user_id = u.user_id
        left join lateral (
            select n.user_id, n.password_hash from user_password n where n.user_id = u.user_id
            order by n.set_at desc, n.password_id desc limit 1) p on true
        where u.email_digest = wanted_digest or u.email = wanted_email;
end $$;

create function find_identities(wanted uuid)
returns table (issuer text, subject text, linked_at timestamptz)
language plpgsql stable security definer as $$
#variable_conflict use_column
begin
    return query select i.issuer, i.subject, i.linked_at from user_identity i
        where i.user_id = wanted order by i.linked_at, i.issuer limit 100;
end $$;

do $$
declare
    look_up text;
begin
    foreach look_up in array array['find_person(uuid)', 'find_sealed_account(bytea, text)',
        'find_identities(uuid)']
    loop
        execute format('alter function %s set search_path = %I, pg_temp', look_up, current_schema());
        execute format('revoke execute on function %s from public', look_up);
        execute format('grant execute on function %s to sluice_tenants', look_up);
        execute format('alter function %s owner to sluice_lookup', look_up);
    end loop;
end $$;
