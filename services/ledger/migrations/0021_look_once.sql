-- migrate:up

-- What somebody must know who books what is asked for, in one call: these books (of one name) are
-- locked as `post_entries` does, and bounds are kept from now on. What is looked at is seen statement
-- by statement when the locks are held, so it stays true until this transaction books.
--
-- Answers by their numbers from one on: the keys that are booked, and the accounts that are not open
-- or have turned over so much on one side; and since when each book is open of which months are
-- closed. Each is looked up by its key, for of small tables the planner knows nothing.
create function look_into_books(
    in_book text, key_tenants uuid[], keys text[], account_tenants uuid[], accounts text[],
    turnover_minor_max bigint, out booked bigint[], out unopened bigint[], out full_ones bigint[],
    out closed_tenants uuid[], out open_from timestamptz[]
) language plpgsql
set enable_seqscan = off
as $$
declare
    in_mode constant text := current_setting('app.mode');
begin
    perform set_config('app.bounds', 'kept', true), set_config('app.capturing', '', true);
    select array_agg(b.tenant_id), array_agg(b.open_from) into closed_tenants, open_from
    from (select array_agg(distinct t) as ts from unnest(key_tenants) as u(t)) as asked
    cross join lateral lock_books(asked.ts, array_fill(in_book, array[cardinality(asked.ts)])) b;

    select array_agg(u.n) into booked
    from unnest(key_tenants, keys) with ordinality as u(t, k, n)
    cross join lateral (
        select from journal_entry j where j.tenant_id = u.t and j.mode = in_mode
            and j.book = in_book and j.source_key = u.k limit 1) j;

    select array_agg(u.n) filter (where a.is_open is null),
           array_agg(u.n) filter (where b.is_full)
    into unopened, full_ones
    from unnest(account_tenants, accounts) with ordinality as u(t, c, n)
    left join lateral (
        select true as is_open from account a where a.tenant_id = u.t and a.mode = in_mode
            and a.book = in_book and a.code = u.c limit 1) a on true
    left join lateral (
        select true as is_full from account_balance b where b.tenant_id = u.t and b.mode = in_mode
            and b.book = in_book and b.account = u.c
            and greatest(b.debit_minor, b.credit_minor) >= turnover_minor_max limit 1) b on true;
end $$;
