"""SQL of periods: which months of a book are closed, and which entries came late."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode


async def lock_books(
    tx: Tx, books: Collection[tuple[UUID, str]]
) -> dict[tuple[UUID, str], datetime]:
    """Be the only one to book in these books; since when each is open, where months are closed."""
    rows = await tx.fetch(
        "select tenant_id, book, open_from from lock_books($1, $2)",
        [tenant_id for tenant_id, _ in books],
        [book for _, book in books],
    )
    return {(row["tenant_id"], row["book"]): row["open_from"] for row in rows}


async def last_step(tx: Tx, book: Book, period: str) -> Row | None:
    """The step of a month that holds, in a book of the tenant in scope; None: never closed."""
    return await tx.fetchrow(
        "select * from period_step where tenant_id = $1 and mode = $2 and book = $3 "
        "and period = $4 order by step desc limit 1",
        tx.tenant_id,
        tx.mode,
        book,
        period,
    )


async def insert_step(
    tx: Tx,
    book: Book,
    period: str,
    step: int,
    kind: str,
    *,
    ends_at: datetime,
    taken_at: datetime,
    taken_by: str,
    reason: str,
    chain_seq: int,
) -> bool:
    """Close or reopen a month, once by the number of its step; False where it is known."""
    return (
        await tx.execute(
            """
        insert into period_step (tenant_id, mode, book, period, step, kind, ends_at, taken_at,
            taken_by, reason, chain_seq)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing
        """,
            tx.tenant_id,
            tx.mode,
            book,
            period,
            step,
            kind,
            ends_at,
            taken_at,
            taken_by,
            reason,
            chain_seq,
        )
        > 0
    )


_PERIODS = """
select tenant_id, book, period,
    jsonb_agg(jsonb_build_object('step', step, 'kind', kind, 'taken_at', taken_at,
        'taken_by', taken_by, 'reason', reason, 'chain_seq', chain_seq) order by step) as steps
from period_step
"""


async def list_periods(
    tx: Tx,
    mode: Mode,
    book: str,
    *,
    tenant_id: UUID | None,
    before: tuple[str, UUID] | None,
    limit: int,
) -> list[Row]:
    """The months of a book that were ever closed, the latest first, each with all of its steps.

    Args:
        tenant_id: None lists those of all tenants that are in sight.
        before: only what comes after this month and tenant.
    """
    return await tx.fetch(
        _PERIODS
        + """
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and book = $3
            and ($4::text is null or (period, tenant_id) < ($4, $5::uuid))
        group by tenant_id, book, period order by period desc, tenant_id desc limit $6
        """,
        tenant_id,
        mode,
        book,
        *(before or (None, None)),
        limit,
    )


async def find_period(tx: Tx, book: Book, period: str) -> Row | None:
    """A month of a book of the tenant in scope, if it was ever closed."""
    return await tx.fetchrow(
        _PERIODS
        + """
        where tenant_id = $1 and mode = $2 and book = $3 and period = $4
        group by tenant_id, book, period
        """,
        tx.tenant_id,
        tx.mode,
        book,
        period,
    )


async def link_late(tx: Tx, late: Sequence[tuple[UUID, str, UUID, str, datetime]]) -> None:
    """Keep where late entries (tenant, book, entry, month, true effective time) belong."""
    await tx.execute(
        """
        insert into late_entry (tenant_id, mode, book, entry_id, belongs_to, true_effective_at)
        select t, $1, b, e, p, a
        from unnest($2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[])
            as u(t, b, e, p, a)
        """,
        tx.mode,
        *(list(column) for column in zip(*late, strict=True)),
    )


async def balances_before(
    tx: Tx, tenant_id: UUID, mode: Mode, book: str, currency: str | None, *, before: datetime
) -> list[Row]:
    """Debits less credits of each account of a book, of postings effective before a month begins.

    Full blocks are added up by month, unread; the postings after them are read.
    """
    return await tx.fetch(
        """
        with change as (
            select account, currency, change_minor from posting_span
            where tenant_id = $1 and mode = $2 and book = $3
                and ($4::text is null or currency = $4) and span = 'month' and starts_at < $5
            union all
            select p.account, p.currency,
                case p.side when 'debit' then p.amount_minor else -p.amount_minor end
            from account_balance a join posting p on p.tenant_id = $1 and p.mode = $2
                and p.book = $3 and p.account = a.account and p.currency = a.currency
                and p.account_seq > 1024 * (a.last_seq / 1024)
            where a.tenant_id = $1 and a.mode = $2 and a.book = $3
                and ($4::text is null or a.currency = $4) and p.effective_at < $5
        )
        select c.account, k.type, c.currency, sum(c.change_minor) as net_minor
        from change c join account k on k.tenant_id = $1 and k.mode = $2 and k.book = $3
            and k.code = c.account
        group by 1, 2, 3 order by 1, 3
        """,
        tenant_id,
        mode,
        book,
        currency,
        before,
    )
