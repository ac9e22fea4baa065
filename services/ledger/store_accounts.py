"""SQL of one account: what stood on it at a time, and its postings one after another."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from libs.db.tenant import Mode


async def find(tx: Tx, tenant_id: UUID, mode: Mode, book: str, account: str) -> Row | None:
    """An account of a book."""
    return await tx.fetchrow(
        "select code, type, normal_side from account "
        "where tenant_id = $1 and mode = $2 and book = $3 and code = $4",
        tenant_id,
        mode,
        book,
        account,
    )


async def balances(
    tx: Tx, tenant_id: UUID, mode: Mode, book: str, account: str, currency: str | None
) -> list[Row]:
    """Debits less credits of all that is booked on an account, by currency."""
    return await tx.fetch(
        """
        select currency, debit_minor - credit_minor as net_minor from account_balance
        where tenant_id = $1 and mode = $2 and book = $3 and account = $4
            and ($5::text is null or currency = $5)
        order by currency
        """,
        tenant_id,
        mode,
        book,
        account,
        currency,
    )


async def balances_at(
    tx: Tx,
    tenant_id: UUID,
    mode: Mode,
    book: str,
    account: str,
    currency: str | None,
    *,
    at: datetime,
    effective: bool,
) -> list[Row]:
    """Debits less credits of the postings of a time and before, by currency.

    Args:
        effective: by effective time; otherwise by the time of booking.
    """
    # Planned for the arguments at hand it would come out the same, and that takes as long as reading.
    await tx.execute("set local plan_cache_mode = force_generic_plan")
    return await tx.fetch(
        _EFFECTIVE_BALANCES if effective else _BOOKED_BALANCES,
        tenant_id,
        mode,
        book,
        account,
        currency,
        at,
    )


_BOOKED_BALANCES = """
with block as materialized (
    select currency, sum(change_minor) filter (where booked_to <= $6) as change_minor,
           array_agg(block) filter (where booked_from <= $6 and booked_to > $6) as cut
    from posting_block
    where tenant_id = $1 and mode = $2 and book = $3 and account = $4
        and ($5::text is null or currency = $5)
    group by currency
)
select a.currency, (
    coalesce(b.change_minor, 0)
    + coalesce((
        select sum(p.change)
        from unnest(b.cut) as c(block) cross join lateral (
            select case p.side when 'debit' then p.amount_minor else -p.amount_minor end as change
            from posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
                and p.account = $4 and p.currency = a.currency
                and p.account_seq between c.block * 1024 + 1 and c.block * 1024 + 1024
                and p.booked_at <= $6 offset 0) p), 0)
    + coalesce((
        select sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end)
        from posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
            and p.account = $4 and p.currency = a.currency
            and p.account_seq > 1024 * (a.last_seq / 1024) and p.booked_at <= $6), 0)
    ) as net_minor
from account_balance a left join block b using (currency)
where a.tenant_id = $1 and a.mode = $2 and a.book = $3 and a.account = $4
    and ($5::text is null or a.currency = $5)
order by a.currency
"""
"""Blocks that lie before the time as a whole are added up unread, those that it cuts through are read,
each by its numbers (`offset 0` keeps the planner from reading all), and so are the postings that make no
full block yet."""

_EFFECTIVE_BALANCES = """
select a.currency, (
    coalesce((select sum(s.change_minor) from posting_span s
              where s.tenant_id = $1 and s.mode = $2 and s.book = $3 and s.account = $4
                  and s.currency = a.currency and s.span = 'month'
                  and s.starts_at < date_trunc('month', $6, 'UTC')), 0)
    + coalesce((select sum(s.change_minor) from posting_span s
                where s.tenant_id = $1 and s.mode = $2 and s.book = $3 and s.account = $4
                    and s.currency = a.currency and s.span = 'hour'
                    and s.starts_at >= date_trunc('month', $6, 'UTC')
                    and s.starts_at <= $6 and s.effective_to <= $6), 0)
    + coalesce((
        select sum(p.change)
        from posting_span s cross join lateral (
            select case p.side when 'debit' then p.amount_minor else -p.amount_minor end as change
            from posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
                and p.account = $4 and p.currency = a.currency and p.account_seq > 1024
                and p.effective_at between date_trunc('hour', $6, 'UTC') and $6
                and p.account_seq + 0 <= 1024 * (a.last_seq / 1024)
            union all
            select case p.side when 'debit' then p.amount_minor else -p.amount_minor end
            from posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
                and p.account = $4 and p.currency = a.currency
                and p.account_seq <= least(1024, 1024 * (a.last_seq / 1024))
                and p.effective_at between date_trunc('hour', $6, 'UTC') and $6
                and exists (select from posting_block k where k.tenant_id = $1 and k.mode = $2
                    and k.book = $3 and k.account = $4 and k.currency = a.currency
                    and k.block = 0 and k.effective_from <= $6
                    and k.effective_to >= date_trunc('hour', $6, 'UTC'))) p
        where s.tenant_id = $1 and s.mode = $2 and s.book = $3 and s.account = $4
            and s.currency = a.currency and s.span = 'hour'
            and s.starts_at = date_trunc('hour', $6, 'UTC') and s.effective_to > $6), 0)
    + coalesce((
        select sum(case p.side when 'debit' then p.amount_minor else -p.amount_minor end)
        from posting p where p.tenant_id = $1 and p.mode = $2 and p.book = $3
            and p.account = $4 and p.currency = a.currency
            and p.account_seq > 1024 * (a.last_seq / 1024) and p.effective_at <= $6), 0)
    ) as net_minor
from account_balance a
where a.tenant_id = $1 and a.mode = $2 and a.book = $3 and a.account = $4
    and ($5::text is null or a.currency = $5)
order by a.currency
"""
"""Months before the time's, and hours of its month that lie before it as a whole, are added up unread.
Of the hour that it cuts through postings are read: by their effective time (`+ 0`: never by number), and
the first block, which that index leaves out, by number where it holds any. So are those that make no full
block yet."""


NEWEST = 2**63 - 1


async def list_postings(
    tx: Tx,
    tenant_id: UUID,
    mode: Mode,
    book: str,
    account: str,
    currency: str,
    *,
    before: int = NEWEST,
    limit: int,
) -> list[Row]:
    """Postings of an account and currency with their entries, newest first.

    Args:
        before: only postings with smaller numbers.
    """
    return await tx.fetch(
        """
        select p.account_seq, p.entry_id, p.side, p.amount_minor, p.balance_after_minor,
               p.effective_at, p.booked_at, e.source_key, e.rule, e.reverses
        from posting p join journal_entry e on e.tenant_id = p.tenant_id and e.mode = p.mode
            and e.book = p.book and e.id = p.entry_id
        where p.tenant_id = $1 and p.mode = $2 and p.book = $3 and p.account = $4
            and p.currency = $5 and p.account_seq < $6
        order by p.account_seq desc limit $7
        """,
        tenant_id,
        mode,
        book,
        account,
        currency,
        before,
        limit,
    )
