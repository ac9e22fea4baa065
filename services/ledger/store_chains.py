"""SQL of the chains' heads."""

from datetime import datetime

from libs.db.pool import Row, Tx


async def due_heads(
    tx: Tx, *, told_before: datetime, entries: int, again_before: datetime, limit: int
) -> list[Row]:
    """Books whose head is to be told, the longest untold first; as the maintenance role."""
    return await tx.fetch(
        """
        select tenant_id, mode, book from book_chain
        where anchored_at < $3
            or (last_seq > anchored_seq and (anchored_at < $1 or last_seq - anchored_seq >= $2))
        order by anchored_at, tenant_id, mode, book limit $4
        """,
        told_before,
        entries,
        again_before,
        limit,
    )


async def lock_head(tx: Tx, book: str) -> Row | None:
    """The head of a book of the tenant in scope, which does not move until this is committed."""
    return await tx.fetchrow(
        "select book, last_seq, last_hash from book_chain "
        "where tenant_id = $1 and mode = $2 and book = $3 for update",
        tx.tenant_id,
        tx.mode,
        book,
    )


async def note_anchored(tx: Tx, book: str, seq: int, at: datetime) -> None:
    """The head of this number was told."""
    await tx.execute(
        "update book_chain set anchored_seq = $4, anchored_at = $5 "
        "where tenant_id = $1 and mode = $2 and book = $3",
        tx.tenant_id,
        tx.mode,
        book,
        seq,
        at,
    )
