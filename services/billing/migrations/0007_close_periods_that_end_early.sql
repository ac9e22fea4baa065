-- migrate:up

-- A period that Stripe cut off, or that ended with its subscription, is closed without an invoice of its
-- own: what it costs stands on the next one that takes lines.
-- squawk-ignore ban-drop-not-null
alter table usage_closure alter column invoice_id drop not null;

-- A draft that Stripe holds for us, while what it is to bill is being counted.
alter table invoice add column awaits_usage boolean not null default false;

-- No moment of a subscription is closed twice. Transactions of a tenant and mode that close periods come
-- one after the other.
create function refuse_closing_twice() returns trigger
language plpgsql as $$
begin
    if exists (
        select from usage_closure u
        where (u.tenant_id, u.mode, u.subscription_id)
            = (new.tenant_id, new.mode, new.subscription_id)
            and u.period_from < new.period_to and u.period_to > new.period_from) then
        raise exception 'what a period was used is counted once';
    end if;
    return new;
end $$;
do $$
begin
    execute format('alter function refuse_closing_twice() set search_path = %I, pg_temp',
        current_schema());
end $$;
create trigger usage_is_closed_once before insert on usage_closure
for each row execute function refuse_closing_twice();
