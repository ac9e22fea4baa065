"""SQL of reversals that wait for the entry they take back."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db import arrays
from libs.db.pool import Cause, Row, Tx


async def lock_book(tx: Tx, book: Book) -> None:
    """Be the only one to book in this book of the tenant in scope, as `post_entries` is."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended("
        "concat_ws('/', 'book', $1::uuid, $2::text, $3::text), 0))",
        tx.tenant_id,
        tx.mode,
        book,
    )


async def find_original(tx: Tx, book: Book, source_key: str) -> Row | None:
    """The entry of a fact, in a book of the tenant in scope."""
    return await tx.fetchrow(
        "select tenant_id, book, id from journal_entry "
        "where tenant_id = $1 and mode = $2 and book = $3 and source_key = $4",
        tx.tenant_id,
        tx.mode,
        book,
        source_key,
    )


async def let_wait(
    tx: Tx,
    *,
    book: Book,
    source_key: str,
    reversal_id: UUID,
    effective_at: datetime,
    booked_at: datetime,
    cause: Cause,
) -> None:
    """Keep a reversal until the entry of this source key is booked; the first one of several."""
    await tx.execute(
        """
        insert into waiting_reversal (tenant_id, mode, book, source_key, reversal_id, effective_at,
            booked_at, causation_id, correlation_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        book,
        source_key,
        reversal_id,
        effective_at,
        booked_at,
        cause.causation_id,
        cause.correlation_id,
    )


async def is_any_waiting(tx: Tx) -> bool:
    """Whether any reversal waits in the books in scope, where mostly none does."""
    return bool(await tx.fetchval("select exists (select from waiting_reversal)"))


async def take_waiting(tx: Tx, originals: Sequence[tuple[UUID, Book, str]]) -> list[Row]:
    """What waits for entries (tenant, book, source key); it does not wait any more."""
    return await tx.fetch(
        """
        delete from waiting_reversal w
        using unnest($2::text::uuid[], $3::text::text[], $4::text::text[]) as u(t, b, k)
        where w.tenant_id = u.t and w.mode = $1 and w.book = u.b and w.source_key = u.k
        returning w.*
        """,
        tx.mode,
        arrays.uuids(tenant_id for tenant_id, _, _ in originals),
        arrays.texts(book for _, book, _ in originals),
        arrays.texts(source_key for _, _, source_key in originals),
    )
