-- migrate:up

-- What guards an account in a currency: bounds of its balance, and what of it is held. Amounts are of
-- the account's normal side. An account that nothing guards has no row, and is booked on without one.
create table account_guard (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    account text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    min_minor bigint,
    max_minor bigint,
    bounds_version integer not null default 0 check (bounds_version >= 0),
    held_minor bigint not null default 0 check (held_minor >= 0),
    open_holds integer not null default 0 check (open_holds >= 0),
    primary key (tenant_id, mode, book, account, currency),
    check (min_minor <= max_minor)
) with (fillfactor = 50);
select isolate_by_book('account_guard');
revoke insert, update, delete on account_guard from sluice_ledger;
grant insert (tenant_id, mode, book, account, currency, min_minor, max_minor, bounds_version),
    update (min_minor, max_minor, bounds_version) on account_guard to sluice_ledger;

-- Amounts that are held until they are captured, released or expire. What was asked for never changes;
-- what became of it follows from the steps, whichever of them is read first.
create table hold (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    id uuid not null,
    key text not null check (length(key) between 1 and 200),
    account text not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    amount_minor bigint not null check (amount_minor > 0),
    expires_at timestamptz not null,
    placed_at timestamptz not null,
    placed_by text not null,
    captured_minor bigint not null default 0 check (captured_minor between 0 and amount_minor),
    ended_by text check (ended_by in ('capture', 'release', 'expiry')),
    ended_at timestamptz,
    remaining_minor bigint not null generated always as
        (case when ended_by is null then amount_minor - captured_minor else 0 end) stored,
    primary key (tenant_id, mode, book, id),
    unique (tenant_id, mode, book, key),
    check ((ended_by is null) = (ended_at is null)),
    check (ended_by is not null or captured_minor < amount_minor)
);
create index hold_expiring on hold (expires_at) where ended_by is null;
-- Operators read a whole book, newest first.
create index hold_newest on hold (book, mode, id);
create index hold_open on hold (tenant_id, mode, book, account, currency, expires_at)
    where ended_by is null;
select isolate_by_book('hold');
revoke insert, update, delete on hold from sluice_ledger;
grant insert (tenant_id, mode, book, id, key, account, currency, amount_minor, expires_at,
    placed_at, placed_by) on hold to sluice_ledger;

-- What became of a hold, each once by its key: captures, a release, an expiry. After a step that ends
-- the hold nothing is held any more.
create table hold_step (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    hold_id uuid not null,
    key text not null check (length(key) between 1 and 250),
    kind text not null check (kind in ('capture', 'release', 'expiry')),
    captured_minor bigint not null check ((captured_minor > 0) = (kind = 'capture')),
    ends boolean not null check (ends or kind = 'capture'),
    captured_to text,
    entry_id uuid,
    taken_at timestamptz not null,
    primary key (tenant_id, mode, book, hold_id, key),
    check ((captured_to is not null and entry_id is not null) = (kind = 'capture'))
);
select isolate_by_book('hold_step');
revoke update, delete on hold_step from sluice_ledger;

-- An account that facts took beyond its bounds, or below what is held of it: told once.
create table account_overrun (
    tenant_id uuid not null,
    mode text not null check (mode in ('test', 'live')),
    book text not null check (book in ('platform', 'tenant')),
    account text not null,
    currency text not null,
    account_seq bigint not null,
    bound text not null check (bound in ('minimum', 'maximum')),
    limit_minor bigint not null,
    balance_minor bigint not null,
    held_minor bigint not null,
    told_at timestamptz,
    primary key (tenant_id, mode, book, account, currency, account_seq)
);
create index account_overrun_untold on account_overrun (tenant_id, mode, book)
    where told_at is null;
select isolate_by_book('account_overrun');
revoke insert, update, delete on account_overrun from sluice_ledger;
grant update (told_at) on account_overrun to sluice_ledger;

-- What becomes of a balance that a bound does not let through: `app.bounds` = 'kept' refuses it, for
-- somebody who waits for the answer; without it the balance stands and the overrun is noted, for facts
-- have happened whether or not a bound likes them. `detail` says everything a caller may be told.
create function overrun(
    guard account_guard, bound text, limit_minor bigint, available_minor numeric,
    asked_minor numeric
) returns void language plpgsql as $$
begin
    raise exception '% % does not take % more: its % is %', guard.account, guard.currency,
        asked_minor, bound, limit_minor
        using errcode = 'SL004', detail = jsonb_build_object('account', guard.account,
            'currency', guard.currency, 'bound', bound, 'limit_minor', limit_minor,
            'available_minor', available_minor, 'asked_minor', asked_minor)::text;
end $$;

-- One account after booking. Only what moves a balance towards a bound can overrun it: who brings an
-- account back is never refused. A minimum is of what is available, balance less holds, and nobody
-- takes what is held. `app.capturing` names the account whose hold is being captured: what was held
-- may be taken, whatever else happened to the account meanwhile. Differences are numeric: two sums
-- that a column holds may lie further apart than a column does.
create function keep_bounds_of(
    guard account_guard, net_before bigint, net_after bigint, last_seq bigint
) returns void language plpgsql as $$
declare
    sign numeric;
    before numeric;
    after numeric;
    floor_minor bigint := coalesce(guard.min_minor, case when guard.held_minor > 0 then 0 end);
    passed text;
    was_within boolean;
begin
    select case a.normal_side when 'debit' then 1 else -1 end into sign from account a
    where a.tenant_id = guard.tenant_id and a.mode = guard.mode and a.book = guard.book
        and a.code = guard.account;
    before := sign * net_before;
    after := sign * net_after;
    if after < before and after - guard.held_minor < floor_minor then
        passed := 'minimum';
        was_within := before - guard.held_minor >= floor_minor;
    elsif after > before and after > guard.max_minor then
        passed := 'maximum';
        was_within := before <= guard.max_minor;
    else
        return;
    end if;
    if current_setting('app.bounds', true) = 'kept' and not (passed = 'minimum'
            and guard.account = coalesce(current_setting('app.capturing', true), '')) then
        perform overrun(guard, passed,
            case passed when 'minimum' then floor_minor else guard.max_minor end,
            before - guard.held_minor, abs(after - before));
    end if;
    if was_within then
        insert into account_overrun (tenant_id, mode, book, account, currency, account_seq, bound,
            limit_minor, balance_minor, held_minor)
        values (guard.tenant_id, guard.mode, guard.book, guard.account, guard.currency, last_seq,
            passed, case passed when 'minimum' then floor_minor else guard.max_minor end, after,
            guard.held_minor);
    end if;
end $$;

-- After each call that books: the guarded ones of the accounts it moved, which are few. Each is looked
-- up by its key, for of small tables the planner knows nothing.
create function keep_bounds() returns trigger
language plpgsql
set enable_seqscan = off
as $$
begin
    if not exists (select from account_guard) then
        return null;
    end if;
    if tg_op = 'INSERT' then
        perform keep_bounds_of(g.guard, 0, m.debit_minor - m.credit_minor, m.last_seq)
        from moved m cross join lateral (
            select g as guard from account_guard g where g.tenant_id = m.tenant_id
                and g.mode = m.mode and g.book = m.book and g.account = m.account
                and g.currency = m.currency limit 1) g;
    else
        perform keep_bounds_of(g.guard, b.debit_minor - b.credit_minor,
            m.debit_minor - m.credit_minor, m.last_seq)
        from moved m cross join lateral (
            select g as guard from account_guard g where g.tenant_id = m.tenant_id
                and g.mode = m.mode and g.book = m.book and g.account = m.account
                and g.currency = m.currency limit 1) g
        join before b on b.tenant_id = m.tenant_id and b.mode = m.mode and b.book = m.book
            and b.account = m.account and b.currency = m.currency;
    end if;
    return null;
end $$;
create trigger bounded_when_new after insert on account_balance
    referencing new table as moved for each statement execute function keep_bounds();
create trigger bounded after update on account_balance
    referencing old table as before new table as moved
    for each statement execute function keep_bounds();

-- A hold as its steps make it, and what is held of its account. It runs as the owner: nobody else
-- writes what a hold has come to. A new hold is refused beyond what is available, where bounds are
-- kept. The lock comes first, the one of `post_entries`: nobody books on the account meanwhile.
create function fold_hold() returns trigger
language plpgsql security definer as $$
declare
    of_hold uuid;
    held hold;
    steps record;
    guard account_guard;
    released bigint;
    balance numeric;
begin
    perform pg_advisory_xact_lock(
        hashtextextended(concat_ws('/', 'book', new.tenant_id, new.mode, new.book), 0));
    if tg_table_name = 'hold' then
        of_hold := new.id;
    else
        of_hold := new.hold_id;
    end if;
    select * into held from hold h where h.tenant_id = new.tenant_id and h.mode = new.mode
        and h.book = new.book and h.id = of_hold for update;
    if not found then
        return null;
    end if;

    if tg_table_name = 'hold' then
        insert into account_guard as known (tenant_id, mode, book, account, currency, held_minor,
            open_holds)
        values (held.tenant_id, held.mode, held.book, held.account, held.currency,
            held.amount_minor, 1)
        on conflict (tenant_id, mode, book, account, currency) do update set
            held_minor = known.held_minor + excluded.held_minor,
            open_holds = known.open_holds + 1
        returning * into guard;
        if current_setting('app.bounds', true) = 'kept' then
            select case a.normal_side when 'debit' then b.debit_minor - b.credit_minor
                       else b.credit_minor - b.debit_minor end into balance
            from account_balance b join account a on a.tenant_id = b.tenant_id
                and a.mode = b.mode and a.book = b.book and a.code = b.account
            where b.tenant_id = held.tenant_id and b.mode = held.mode and b.book = held.book
                and b.account = held.account and b.currency = held.currency;
            balance := coalesce(balance, 0);
            if balance - guard.held_minor < coalesce(guard.min_minor, 0) then
                perform overrun(guard, 'minimum', coalesce(guard.min_minor, 0),
                    balance - guard.held_minor + held.amount_minor, held.amount_minor);
            end if;
        end if;
    end if;

    select sum(s.captured_minor) as captured,
           (array_agg(s.kind order by s.taken_at, s.key) filter (where s.ends))[1] as ended_by,
           min(s.taken_at) filter (where s.ends) as ended_at, max(s.taken_at) as last_at
    into steps from hold_step s
    where s.tenant_id = held.tenant_id and s.mode = held.mode and s.book = held.book
        and s.hold_id = held.id;
    if steps.captured is null then
        return null;
    end if;
    if steps.ended_by is null and steps.captured = held.amount_minor then
        steps.ended_by := 'capture';
        steps.ended_at := steps.last_at;
    end if;
    update hold h set captured_minor = steps.captured, ended_by = steps.ended_by,
        ended_at = steps.ended_at
    where h.tenant_id = held.tenant_id and h.mode = held.mode and h.book = held.book
        and h.id = held.id
    returning held.remaining_minor - h.remaining_minor into released;
    update account_guard g set held_minor = g.held_minor - released,
        open_holds = g.open_holds
            - case when held.ended_by is null and steps.ended_by is not null then 1 else 0 end
    where g.tenant_id = held.tenant_id and g.mode = held.mode and g.book = held.book
        and g.account = held.account and g.currency = held.currency;
    return null;
end $$;
do $$
declare
    written regprocedure;
begin
    foreach written in array array['fold_hold()', 'keep_bounds()']::regprocedure[] loop
        execute format('alter function %s set search_path = %I, pg_temp', written,
            current_schema());
    end loop;
end $$;
create trigger folded after insert on hold for each row execute function fold_hold();
create trigger folded after insert on hold_step for each row execute function fold_hold();
