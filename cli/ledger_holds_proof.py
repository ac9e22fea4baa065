"""Holds as Postgres has them, recomputed from their steps: what each has come to, what accounts hold."""

from collections.abc import Sequence
from typing import Any

_HOLDS = """
with step as (
    select hold_id, sum(captured_minor) as captured, max(taken_at) as last_at,
        (array_agg(kind order by taken_at, key) filter (where ends))[1] as ended_by,
        min(taken_at) filter (where ends) as ended_at
    from ledger.hold_step where tenant_id = $1 and mode = $2 and book = $3 group by hold_id
), computed as (
    select h.*, coalesce(s.captured, 0) as captured,
        coalesce(s.ended_by, case when s.captured = h.amount_minor then 'capture' end) as ended,
        case when s.ended_by is null and s.captured = h.amount_minor then s.last_at
            else s.ended_at end as since
    from ledger.hold h left join step s on s.hold_id = h.id
    where h.tenant_id = $1 and h.mode = $2 and h.book = $3
), held as (
    select account, currency, sum(amount_minor - captured) as held_minor, count(*) as open_holds
    from computed where ended is null group by account, currency
), said as (
    select concat('hold ', id, ': it is not what its steps make of it') as fault from computed
    where (captured_minor, ended_by, ended_at, remaining_minor) is distinct from
        (captured, ended, since, case when ended is null then amount_minor - captured else 0 end)
    union all
    select concat('hold ', s.hold_id, ': a capture of it is not in the book')
    from ledger.hold_step s left join ledger.journal_entry e on e.tenant_id = $1 and e.mode = $2
        and e.book = $3 and e.id = s.entry_id
    where s.tenant_id = $1 and s.mode = $2 and s.book = $3 and s.kind = 'capture' and e.id is null
    union all
    select concat(account, ' ', currency, ': what is held of it is not the sum of its holds')
    from held h
    full join (select * from ledger.account_guard
               where tenant_id = $1 and mode = $2 and book = $3) g using (account, currency)
    where (coalesce(g.held_minor, 0), coalesce(g.open_holds, 0))
        is distinct from (coalesce(h.held_minor, 0), coalesce(h.open_holds, 0))
)
select coalesce((array_agg(fault order by fault))[:100], '{}') from said
"""


async def wrong_holds(admin: Any, book: Sequence[Any]) -> list[str]:
    """What is wrong with the holds of a book, at most 100 faults."""
    found: list[str] = await admin.fetchval(_HOLDS, *book)
    return found
