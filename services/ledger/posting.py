"""Booking: entries go into the books, once, and are told."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from libs.contracts.envelope import Envelope
from libs.contracts.ledger import JournalEntryPosted, PostedLine
from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.observability.metrics import LEDGER_SUSPENSE_ENTRIES_TOTAL
from services.ledger import chart, store
from services.ledger.chart import Account
from services.ledger.entries import Entry
from services.ledger.rules import SUSPENSE_RULE
from services.ledger.store import Booking

log = structlog.get_logger()

BOOKS = ("platform", "tenant")


async def open_books(tx: Tx) -> None:
    """Open the accounts that every book has, in both books of the tenant."""
    for book in BOOKS:
        await store.open_accounts(tx, book, chart.FIXED)


async def book_fact(tx: Tx, event: Envelope[Any], entry: Entry | None) -> None:
    """Book what a rule made of an event; nothing where it made nothing, or has done so before.

    Business time is the event's; booked_at is when the fact was recorded, so that a replay agrees.
    What went to suspense is counted, for somebody must find out what it is.

    Raises:
        SourceKeyConflictError: the fact is booked with other content.
    """
    if entry is None:
        return
    booked = await book(
        tx, [entry], event.effective_at, booked_at=event.occurred_at, causation_id=event.id
    )
    if booked and entry.rule == SUSPENSE_RULE:
        tx.after_commit.append(LEDGER_SUSPENSE_ENTRIES_TOTAL.labels(kind=event.data.kind).inc)


async def book(
    tx: Tx,
    entries: Sequence[Entry],
    effective_at: datetime,
    *,
    booked_at: datetime,
    causation_id: UUID,
) -> list[UUID]:
    """Book entries of the tenant in scope together; the ids of those that were not booked before.

    Raises:
        SourceKeyConflictError: a fact is booked with other content; nothing is booked then.
    """
    accounts: dict[str, dict[str, Account]] = {}
    for entry in entries:
        used = accounts.setdefault(entry.book, {})
        used.update({line.account.code: line.account for line in entry.lines})
    for name, used in sorted(accounts.items()):
        await store.open_accounts(tx, name, [used[code] for code in sorted(used)])
    bookings = [Booking(new_id(), entry) for entry in entries]
    try:
        booked = await store.post_entries(tx, bookings, effective_at, booked_at, causation_id)
    except store.SourceKeyConflictError:
        log.exception("source_key_conflict", causation_id=str(causation_id))
        raise
    for booking in bookings:
        if booking.id in booked:
            emit(tx, _told(booking, booked_at), effective_at=effective_at)
    return [booking.id for booking in bookings if booking.id in booked]


def _told(booking: Booking, booked_at: datetime) -> JournalEntryPosted:
    entry = booking.entry
    return JournalEntryPosted(
        entry_id=booking.id,
        book=entry.book,
        source_key=entry.source_key,
        booked_at=booked_at,
        postings=tuple(
            PostedLine(
                account=line.account.code,
                side=line.side,
                amount_minor=line.amount_minor,
                currency=line.currency,
            )
            for line in entry.lines
        ),
    )
