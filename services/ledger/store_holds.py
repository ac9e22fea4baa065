"""SQL of holds and of what becomes of them."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import asyncpg

from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode
from services.ledger.store_bounds import overrun_of


async def insert(
    tx: Tx,
    book: Book,
    hold_id: UUID,
    key: str,
    *,
    account: str,
    currency: str,
    amount_minor: int,
    expires_at: datetime,
    placed_at: datetime,
    placed_by: str,
) -> bool:
    """Hold an amount of an account of the tenant in scope; False where the key or id is known.

    Raises:
        OverrunError: bounds are kept, and so much is not available.
    """
    try:
        inserted = await tx.execute(
            """
            insert into hold (tenant_id, mode, book, id, key, account, currency, amount_minor,
                expires_at, placed_at, placed_by)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing
            """,
            tx.tenant_id,
            tx.mode,
            book,
            hold_id,
            key,
            account,
            currency,
            amount_minor,
            expires_at,
            placed_at,
            placed_by,
        )
    except asyncpg.PostgresError as error:
        overrun = overrun_of(error)
        if overrun is not None:
            raise overrun from None
        raise
    return inserted > 0


async def find(tx: Tx, books: Collection[str], hold_id: UUID) -> Row | None:
    """A hold of the tenant in scope, in whichever of these books it is."""
    return await tx.fetchrow(
        "select * from hold where tenant_id = $1 and mode = $2 and book = any($3::text[]) "
        "and id = $4",
        tx.tenant_id,
        tx.mode,
        list(books),
        hold_id,
    )


async def find_by_key(tx: Tx, book: Book, key: str) -> Row | None:
    """The hold of this business key."""
    return await tx.fetchrow(
        "select * from hold where tenant_id = $1 and mode = $2 and book = $3 and key = $4",
        tx.tenant_id,
        tx.mode,
        book,
        key,
    )


async def list_holds(
    tx: Tx,
    mode: Mode,
    book: str,
    *,
    tenant_id: UUID | None,
    account: str | None,
    is_open: bool | None,
    before: UUID | None,
    limit: int,
) -> list[Row]:
    """Holds of a book, newest first.

    Args:
        tenant_id: None lists those of all tenants that are in sight.
        is_open: None lists open and ended ones.
        before: only holds older than this one.
    """
    return await tx.fetch(
        """
        select * from hold
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and book = $3
            and ($4::text is null or account = $4)
            and ($5::boolean is null or (ended_by is null) = $5)
            and ($6::uuid is null or id < $6)
        order by id desc limit $7
        """,
        tenant_id,
        mode,
        book,
        account,
        is_open,
        before,
        limit,
    )


async def insert_step(
    tx: Tx,
    book: Book,
    hold_id: UUID,
    key: str,
    kind: str,
    *,
    ends: bool,
    taken_at: datetime,
    captured_minor: int = 0,
    captured_to: str | None = None,
    entry_id: UUID | None = None,
) -> bool:
    """Note what becomes of a hold, once by its key; False where it is known."""
    return (
        await tx.execute(
            """
        insert into hold_step (tenant_id, mode, book, hold_id, key, kind, captured_minor, ends,
            captured_to, entry_id, taken_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing
        """,
            tx.tenant_id,
            tx.mode,
            book,
            hold_id,
            key,
            kind,
            captured_minor,
            ends,
            captured_to,
            entry_id,
            taken_at,
        )
        > 0
    )


async def find_step(tx: Tx, book: Book, hold_id: UUID, key: str) -> Row | None:
    """One step of a hold."""
    return await tx.fetchrow(
        "select captured_minor, ends, captured_to, entry_id from hold_step "
        "where tenant_id = $1 and mode = $2 and book = $3 and hold_id = $4 and key = $5",
        tx.tenant_id,
        tx.mode,
        book,
        hold_id,
        key,
    )


async def count_captures(tx: Tx, book: Book, hold_id: UUID) -> int:
    """In how many parts a hold of the tenant in scope was captured."""
    return int(
        await tx.fetchval(
            "select count(*) from hold_step where tenant_id = $1 and mode = $2 and book = $3 "
            "and hold_id = $4 and kind = 'capture'",
            tx.tenant_id,
            tx.mode,
            book,
            hold_id,
        )
    )


async def expired_on(
    tx: Tx, book: Book, account: str, currency: str, now: datetime, limit: int
) -> list[Row]:
    """Open holds on an account whose time is over."""
    return await tx.fetch(
        "select id from hold where tenant_id = $1 and mode = $2 and book = $3 and account = $4 "
        "and currency = $5 and ended_by is null and expires_at <= $6 order by expires_at limit $7",
        tx.tenant_id,
        tx.mode,
        book,
        account,
        currency,
        now,
        limit,
    )


async def expired(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Over all tenants: open holds whose time is over, the longest first; as the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode, book, id from hold where ended_by is null and expires_at <= $1 "
        "order by expires_at limit $2",
        now,
        limit,
    )
