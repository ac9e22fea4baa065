"""SQL of bounds: what guards an account, and where facts went beyond it."""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode

OVERRUN_SQLSTATE = "SL004"


class OverrunError(Exception):
    """An account does not take this: it would pass one of its bounds, or take what is held.

    Attributes:
        account, currency: that would be overrun.
        bound: `minimum` or `maximum`.
        limit_minor: the bound.
        available_minor: balance less holds, as it is.
        asked_minor: by how much it was to move, or was to be held.
    """

    def __init__(self, detail: str) -> None:
        told = json.loads(detail)
        super().__init__(f"{told['account']} does not take {told['asked_minor']} more")
        self.account: str = told["account"]
        self.currency: str = told["currency"]
        self.bound: str = told["bound"]
        self.limit_minor: int = told["limit_minor"]
        self.available_minor: int = told["available_minor"]
        self.asked_minor: int = told["asked_minor"]


def overrun_of(error: asyncpg.PostgresError) -> OverrunError | None:
    """The overrun that a statement was refused for; None for every other error."""
    if error.sqlstate != OVERRUN_SQLSTATE:
        return None
    return OverrunError(error.detail)


async def keep_bounds(tx: Tx, *, capturing: str = "") -> None:
    """Refuse overruns for the rest of the transaction, or what of it captures a hold.

    Args:
        capturing: the account whose hold is being captured; its minimum is not asked.
    """
    await tx.execute(
        "select set_config('app.bounds', 'kept', true), set_config('app.capturing', $1, true)",
        capturing,
    )


async def put_bounds(
    tx: Tx,
    book: Book,
    account: str,
    currency: str,
    *,
    min_minor: int | None,
    max_minor: int | None,
    version: int,
) -> None:
    """Bound an account of the tenant in scope; only a higher version replaces what is there."""
    await tx.execute(
        """
        insert into account_guard as known (tenant_id, mode, book, account, currency, min_minor,
            max_minor, bounds_version)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (tenant_id, mode, book, account, currency) do update set
            min_minor = excluded.min_minor, max_minor = excluded.max_minor,
            bounds_version = excluded.bounds_version
        where excluded.bounds_version > known.bounds_version
        """,
        tx.tenant_id,
        tx.mode,
        book,
        account,
        currency,
        min_minor,
        max_minor,
        version,
    )


async def find_guard(tx: Tx, book: Book, account: str, currency: str) -> Row | None:
    """What guards an account of the tenant in scope; None where nothing does."""
    return await tx.fetchrow(
        "select min_minor, max_minor, bounds_version, held_minor, open_holds from account_guard "
        "where tenant_id = $1 and mode = $2 and book = $3 and account = $4 and currency = $5",
        tx.tenant_id,
        tx.mode,
        book,
        account,
        currency,
    )


async def standings(
    tx: Tx, tenant_id: UUID, mode: Mode, book: str, account: str, currency: str | None
) -> list[Row]:
    """What stands on an account, what of it is held and what bounds it, by currency."""
    return await tx.fetch(
        """
        select coalesce(b.currency, g.currency) as currency,
               coalesce(b.debit_minor - b.credit_minor, 0) as net_minor,
               coalesce(g.held_minor, 0) as held_minor, g.min_minor, g.max_minor
        from (select * from account_balance where tenant_id = $1 and mode = $2 and book = $3
                  and account = $4 and ($5::text is null or currency = $5)) b
        full join (select * from account_guard where tenant_id = $1 and mode = $2 and book = $3
                  and account = $4 and ($5::text is null or currency = $5)) g
            on g.currency = b.currency
        order by 1
        """,
        tenant_id,
        mode,
        book,
        account,
        currency,
    )


async def overrun_books(tx: Tx, limit: int) -> list[Row]:
    """Books with overruns that are to be told; as the maintenance role."""
    return await tx.fetch(
        "select distinct tenant_id, mode, book from account_overrun where told_at is null "
        "order by tenant_id, mode, book limit $1",
        limit,
    )


async def take_overruns(tx: Tx, book: Book, now: datetime, limit: int) -> Sequence[Row]:
    """Overruns of a book of the tenant in scope that are told with this commit."""
    return await tx.fetch(
        """
        update account_overrun o set told_at = $4
        from (select account, currency, account_seq from account_overrun
              where tenant_id = $1 and mode = $2 and book = $3 and told_at is null
              order by account, currency, account_seq limit $5 for update skip locked) due
        where o.tenant_id = $1 and o.mode = $2 and o.book = $3 and o.account = due.account
            and o.currency = due.currency and o.account_seq = due.account_seq
        returning o.account, o.currency, o.account_seq, o.bound, o.limit_minor, o.balance_minor,
            o.held_minor
        """,
        tx.tenant_id,
        tx.mode,
        book,
        now,
        limit,
    )
