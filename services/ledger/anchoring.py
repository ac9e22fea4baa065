"""Telling how far the chains reached, where the ledger itself can no longer change it."""

from datetime import datetime, timedelta

from libs.contracts.ledger import LedgerHeadAnchored
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from services.ledger import store_chains as store

ANCHORED_BOOKS_MAX = 500

TOLD_AGAIN_AFTER = timedelta(days=60)
"""`ledger.events` keeps 90 days: of every book it holds a head, also where nothing is booked."""


async def due(tx: Tx, now: datetime, every: timedelta, entries: int) -> list[Row]:
    """Books whose head is to be told; as the maintenance role.

    Due is what grew, some time after it was told last or by so many entries, and what would soon be
    gone from the topic.
    """
    return await store.due_heads(
        tx,
        told_before=now - every,
        entries=entries,
        again_before=now - TOLD_AGAIN_AFTER,
        limit=ANCHORED_BOOKS_MAX,
    )


async def anchor(tx: Tx, book: str, now: datetime) -> None:
    """Tell the head of a book of the tenant in scope."""
    head = await store.lock_head(tx, book)
    if head is None:
        return
    await store.note_anchored(tx, book, head["last_seq"], now)
    fact = LedgerHeadAnchored(
        book=head["book"],
        chain_seq=head["last_seq"],
        chain_hash=head["last_hash"].hex(),
        anchored_at=now,
    )
    emit(tx, fact, effective_at=now)
