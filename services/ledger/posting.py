"""Booking: entries go into the books, once, and are told."""

from collections.abc import Sequence
from typing import Any

import structlog

from libs.contracts.envelope import Envelope
from libs.contracts.ledger import JournalEntryPosted, PostedLine
from libs.db.pool import Tx
from libs.ids import new_id
from libs.messaging.apply import Delivery
from libs.messaging.outbox import emit
from libs.observability.metrics import LEDGER_SUSPENSE_ENTRIES_TOTAL
from services.ledger import chart, store
from services.ledger.rules import RULES, SUSPENSE_RULE
from services.ledger.store import Booking

log = structlog.get_logger()

BOOKS = ("platform", "tenant")


async def open_books(tx: Tx) -> None:
    """Open the accounts that every book has, in both books of the tenant."""
    await store.open_accounts(
        tx, [(tx.tenant_id, book, account) for book in BOOKS for account in chart.FIXED]
    )


async def book_facts(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Book what the rules make of money facts; nothing of a fact that was booked before.

    Business time is the event's; booked_at is when the fact was recorded, so that a replay agrees.
    What went to suspense is counted, for somebody must find out what it is.

    Raises:
        ContradictoryFactError: the amounts of a fact do not add up.
        SourceKeyConflictError: a fact is booked with other content.
    """
    told: dict[Any, Envelope[Any]] = {}
    bookings = []
    for delivery in deliveries:
        event = delivery.event
        entry = RULES[type(event.data)](event.data)
        if entry is not None:
            booking = Booking(
                id=new_id(),
                tenant_id=event.tenant_id,
                entry=entry,
                effective_at=event.effective_at,
                booked_at=event.occurred_at,
                cause=delivery.cause,
            )
            told[booking.id] = event
            bookings.append(booking)
    for booking in await book(tx, bookings):
        if booking.entry.rule == SUSPENSE_RULE:
            kind = told[booking.id].data.kind
            tx.after_commit.append(LEDGER_SUSPENSE_ENTRIES_TOTAL.labels(kind=kind).inc)


async def book(tx: Tx, bookings: Sequence[Booking]) -> list[Booking]:
    """Book entries of the tenants in scope together; those that were not booked before.

    Raises:
        SourceKeyConflictError: a fact is booked with other content; nothing is booked then.
    """
    if not bookings:
        return []
    accounts = {
        (booking.tenant_id, booking.entry.book, line.account)
        for booking in bookings
        for line in booking.entry.lines
    }
    await store.open_accounts(tx, accounts)
    try:
        new = await store.post_entries(tx, bookings)
    except store.SourceKeyConflictError:
        # Of several, the one that conflicts is looked for by whoever called, and comes back alone.
        if len(bookings) == 1:
            log.exception("source_key_conflict", cause=str(bookings[0].cause))
        raise
    booked = [booking for booking in bookings if booking.id in new]
    for booking in booked:
        emit(
            tx,
            _told(booking),
            tenant_id=booking.tenant_id,
            effective_at=booking.effective_at,
            cause=booking.cause,
        )
    return booked


def _told(booking: Booking) -> JournalEntryPosted:
    entry = booking.entry
    return JournalEntryPosted(
        entry_id=booking.id,
        book=entry.book,
        source_key=entry.source_key,
        booked_at=booking.booked_at,
        reverses=booking.reverses,
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
