"""Booking: entries go into the books, once, and are told."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

import structlog

from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Tx
from libs.messaging.outbox import Letter, compose, send
from services.ledger import chart, periods, store, store_periods
from services.ledger.entries import Entry
from services.ledger.store import Booking

log = structlog.get_logger()

Post = Callable[[Tx, Sequence[Booking]], Coroutine[Any, Any, set[UUID]]]
"""Puts entries into the books, and says which of them were new."""

BOOKS = ("platform", "tenant")
COMPOSED_AT_ONCE = 100
"""Events that are put into words between two looks at the connection."""


async def open_books(tx: Tx) -> None:
    """Open the accounts that every book has, in both books of the tenant, which are locked for it."""
    await store_periods.lock_books(tx, [(tx.tenant_id, book) for book in BOOKS])
    await store.open_accounts(
        tx, [(tx.tenant_id, book, account) for book in BOOKS for account in chart.FIXED]
    )


async def book(tx: Tx, bookings: Sequence[Booking]) -> list[Booking]:
    """Book entries of the tenants in scope together; those that were not booked before.

    Of a closed month they are booked in the open one, with a link.

    Raises:
        SourceKeyConflictError: a fact is booked with other content; nothing is booked then.
        OverrunError: bounds are kept, and an account does not take it; likewise.
    """
    bookings = _each_once(bookings)
    if not bookings:
        return []
    return await book_in_open(tx, await periods.into_open(tx, bookings))


async def book_in_open(
    tx: Tx, bookings: Sequence[Booking], *, post: Post | None = None
) -> list[Booking]:
    """Book entries, each of them once among these, whose months are open; see `book`.

    Args:
        post: what puts them into the books; without it nothing but that is done in the call.
    """
    try:
        new, letters = await _post_and_compose(tx, bookings, post or store.post_entries)
    except store.SourceKeyConflictError:
        # Of several, the one that conflicts is looked for by whoever called, and comes back alone.
        if len(bookings) == 1:
            log.exception("source_key_conflict", cause=str(bookings[0].cause))
        raise
    booked = [booking for booking in bookings if booking.id in new]
    await periods.link(tx, booked)
    for booking in booked:
        send(tx, letters[booking.id])
    return booked


async def _post_and_compose(
    tx: Tx, bookings: Sequence[Booking], post: Post
) -> tuple[set[UUID], dict[UUID, Letter]]:
    """Book, and meanwhile, while Postgres is at work, find the words for all that may turn out new."""
    posting = asyncio.create_task(post(tx, bookings))
    letters = {}
    try:
        for number, booking in enumerate(bookings):
            if number % COMPOSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            letters[booking.id] = compose(
                tx,
                JournalEntryPosted,
                told(booking),
                tenant_id=booking.tenant_id,
                effective_at=booking.effective_at,
                cause=booking.cause,
            )
    except BaseException:
        # The connection belongs to the call until it is over.
        await asyncio.wait({posting})
        raise
    return await posting, letters


def _each_once(bookings: Sequence[Booking]) -> list[Booking]:
    """Without what is told twice in the same words, which has the same id."""
    by_id: dict[UUID, Booking] = {}
    for booking in bookings:
        first = by_id.setdefault(booking.id, booking)
        if first.entry.content_hash != booking.entry.content_hash:
            raise store.SourceKeyConflictError(f"{booking.entry.source_key} is told in two ways")
    return list(by_id.values())


def told(booking: Booking) -> dict[str, Any]:
    """The data of a `JournalEntryPosted`."""
    entry = booking.entry
    return {
        "entry_id": booking.id,
        "book": entry.book,
        "source_key": entry.source_key,
        "booked_at": booking.booked_at,
        "postings": told_lines(entry),
        "reverses": booking.reverses,
        "belongs_to": booking.belongs_to,
        "true_effective_at": booking.true_effective_at,
    }


def told_lines(entry: Entry) -> list[dict[str, Any]]:
    """The postings of an entry, as facts tell them."""
    return [
        {
            "account": line.account.code,
            "side": line.side,
            "amount_minor": line.amount_minor,
            "currency": line.currency,
        }
        for line in entry.lines
    ]
