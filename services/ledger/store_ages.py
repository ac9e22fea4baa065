"""SQL of how old the money is that stands on clearing accounts and in suspense, first in, first out.

What remains of an account came last: its oldest part is of the first posting of the balance's side with
which that side's sum exceeds the other side's. Both sums only grow, so that posting only moves on, and
how far it is known is kept: no posting is read twice, however long the account's history.
"""

from collections.abc import Sequence
from datetime import datetime

from libs.db.pool import Row, Tx
from services.ledger.store_matching import Run

ACCOUNTS_AT_ONCE = 200
POSTINGS_AT_ONCE = 1_000

_FOLLOW = """
with changed as (
    select a.tenant_id, a.book, a.account, a.currency, a.last_seq,
        case when a.debit_minor >= a.credit_minor then 'debit' else 'credit' end as side,
        least(a.debit_minor, a.credit_minor) as left_minor,
        a.debit_minor = a.credit_minor as is_zero
    from book_chain c
    join account_balance a on a.tenant_id = c.tenant_id and a.mode = c.mode and a.book = c.book
        and a.account = any($3::text[])
    where c.mode = $1 and c.book = $2 and ($4::uuid is null or c.tenant_id = $4)
        and not exists (
            select from money_age g where g.tenant_id = a.tenant_id and g.mode = a.mode
                and g.book = a.book and g.account = a.account and g.currency = a.currency
                and g.known_seq = a.last_seq)
    order by a.tenant_id, a.account, a.currency limit $5
), followed as (
    select s.*, coalesce(g.gone_seq, 0) as gone_seq, coalesce(g.gone_minor, 0) as gone_minor
    from changed s
    left join money_age g on g.tenant_id = s.tenant_id and g.mode = $1 and g.book = s.book
        and g.account = s.account and g.currency = s.currency and g.side = s.side
), read as (
    select f.*, page.*
    from followed f
    cross join lateral (
        select max(account_seq) filter (where sum_minor <= f.left_minor) as more_gone_seq,
            max(sum_minor) filter (where sum_minor <= f.left_minor) as more_gone_minor,
            (array_agg(effective_at order by account_seq)
                filter (where sum_minor > f.left_minor))[1] as since
        from (
            select account_seq, effective_at,
                f.gone_minor + sum(minor) over (order by account_seq) as sum_minor
            from (
                select p.account_seq, p.effective_at,
                    case p.side when f.side then p.amount_minor else 0 end as minor
                from posting p
                where p.tenant_id = f.tenant_id and p.mode = $1 and p.book = f.book
                    and p.account = f.account and p.currency = f.currency
                    and p.account_seq > f.gone_seq and not f.is_zero
                order by p.account_seq limit $6) p) p) page
), other_side as (
    update money_age g set since = null from read r
    where g.tenant_id = r.tenant_id and g.mode = $1 and g.book = r.book
        and g.account = r.account and g.currency = r.currency and g.side <> r.side
)
insert into money_age as known
    (tenant_id, mode, book, account, currency, side, gone_seq, gone_minor, known_seq, since)
select tenant_id, $1, book, account, currency, side,
    case when is_zero then last_seq else coalesce(more_gone_seq, gone_seq) end,
    case when is_zero then left_minor else coalesce(more_gone_minor, gone_minor) end,
    case when is_zero or since is not null then last_seq else 0 end, since
from read
on conflict (tenant_id, mode, book, account, currency, side) do update
    set gone_seq = excluded.gone_seq, gone_minor = excluded.gone_minor,
        known_seq = excluded.known_seq, since = excluded.since
"""
"""An account that is at zero has nothing left of any posting: none need be read. One whose balance changes
its side is followed on that side, from where that side was left."""


async def follow(tx: Tx, run: Run, accounts: Sequence[str]) -> int:
    """Come to know more of how old the money on these accounts is; as maintenance.

    Returns:
        How many accounts were looked at; 0: all is known.
    """
    return await tx.execute(
        _FOLLOW,
        run.mode,
        run.book,
        list(accounts),
        run.of_tenant,
        ACCOUNTS_AT_ONCE,
        POSTINGS_AT_ONCE,
    )


async def ages(tx: Tx, run: Run, account: str) -> dict[str, datetime]:
    """When the oldest money came that stands on an account, by currency; as maintenance."""
    rows = await tx.fetch(
        """
        select g.currency, min(g.since) as since
        from book_chain c
        join money_age g on g.tenant_id = c.tenant_id and g.mode = c.mode and g.book = c.book
            and g.account = $3
        where c.mode = $1 and c.book = $2 and ($4::uuid is null or c.tenant_id = $4)
            and g.since is not null
        group by g.currency
        """,
        run.mode,
        run.book,
        account,
        run.of_tenant,
    )
    return {row["currency"]: row["since"] for row in rows}


async def oldest(tx: Tx, suspense: str) -> list[Row]:
    """(is_suspense, since) of the oldest money on all clearing accounts, and in all suspense."""
    return await tx.fetch(
        "select account = $1 as is_suspense, min(since) as since from money_age "
        "where since is not null group by 1",
        suspense,
    )
