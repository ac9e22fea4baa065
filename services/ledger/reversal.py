"""Taking an entry back: a new entry with its postings on the other sides, once.

Staff asks for it over HTTP, and it is booked at once. The same commit tells `ledger.commands`, so
that books that are made of their topics anew take the entry back as well. Topics have no order among
each other: a command that is read before the fact it takes back waits for it in the database.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book, ReverseEntry
from libs.db.pool import Cause, Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.ledger import chart, posting, store, store_bounds, store_reversals
from services.ledger.auditing import tell_change
from services.ledger.chart import Side
from services.ledger.entries import Entry, Line, entry_id
from services.ledger.store import Booking

REVERSAL_RULE = "reversal"
SOURCE_KEY_MAX = 500
OTHER_SIDE: dict[Side, Side] = {"debit": "credit", "credit": "debit"}


class NoSuchEntryError(LookupError):
    """No book in scope has this entry."""


class AlreadyReversedError(ValueError):
    """The entry was taken back before; the message is the source key of what did."""


@dataclass(frozen=True)
class Wanted:
    """A reversal that is to be booked.

    Attributes:
        id: of the reversal.
        source_key: of the entry it takes back.
    """

    id: UUID
    tenant_id: UUID
    book: Book
    source_key: str
    effective_at: datetime
    booked_at: datetime
    cause: Cause

    def booking(self, original_id: UUID, lines: Sequence[Line]) -> Booking:
        """The reversal of an entry with these postings."""
        turned = tuple(
            Line(line.account, OTHER_SIDE[line.side], line.amount_minor, line.currency)
            for line in lines
        )
        return Booking(
            id=self.id,
            tenant_id=self.tenant_id,
            entry=Entry(self.book, reversal_key(self.source_key), REVERSAL_RULE, turned),
            effective_at=self.effective_at,
            booked_at=self.booked_at,
            cause=self.cause,
            reverses=original_id,
        )


def reversal_key(source_key: str) -> str:
    """The source key of the reversal of an entry with this one."""
    key = f"reversal:{source_key}"
    if len(key) <= SOURCE_KEY_MAX:
        return key
    return f"reversal:sha256:{hashlib.sha256(source_key.encode()).hexdigest()}"


async def reverse(
    tx: Tx,
    original_id: UUID,
    *,
    reason: str,
    actor: str,
    effective_at: datetime,
    now: datetime,
) -> UUID:
    """Book the reversal of an entry of the tenant in scope; its id.

    A reversal is an entry like any other: reversing it as well brings the first one back.

    Raises:
        NoSuchEntryError: there is none in the books in scope.
        AlreadyReversedError: it has a reversal already.
        OverrunError: an account would pass one of its bounds.
    """
    original = await store.find_entry(tx, original_id)
    if original is None:
        raise NoSuchEntryError
    book, source_key = original["book"], original["source_key"]
    reversal_id = entry_id(tx.tenant_id, tx.mode, book, reversal_key(source_key), now)
    after = {
        "reversal": public_id("entry", reversal_id),
        "source_key": source_key,
        "reason": reason,
    }
    change = ConfigurationChanged(
        action="ledger_entry.reversed",
        actor=actor,
        object_id=public_id("entry", original_id),
        after=after,
    )
    asked = await tell_change(tx, book, change, now=now)
    command = ReverseEntry(
        book=book,
        source_key=source_key,
        reversal_id=reversal_id,
        booked_at=now,
        reason=(asked.data.after or after)["reason"],
        actor=actor,
    )
    cause = Cause(asked.id, asked.correlation_id)
    emit(tx, command, effective_at=effective_at, cause=cause)
    wanted = Wanted(reversal_id, tx.tenant_id, book, source_key, effective_at, now, cause)
    await store_bounds.keep_bounds(tx)
    if not await posting.book(tx, [wanted.booking(original_id, await _lines(tx, original))]):
        raise AlreadyReversedError(reversal_key(source_key))
    return reversal_id


async def take_command(tx: Tx, event: Envelope[ReverseEntry]) -> None:
    """Book a reversal that is told, unless it is booked; let it wait where its entry is not here.

    The book is locked first, so that its entry is not booked unseen meanwhile.
    """
    fact = event.data
    wanted = Wanted(
        id=fact.reversal_id,
        tenant_id=event.tenant_id,
        book=fact.book,
        source_key=fact.source_key,
        effective_at=event.effective_at,
        booked_at=fact.booked_at,
        cause=Cause(event.causation_id or event.id, event.correlation_id),
    )
    await store_reversals.lock_book(tx, fact.book)
    original = await store_reversals.find_original(tx, fact.book, fact.source_key)
    if original is None:
        await store_reversals.let_wait(
            tx,
            book=wanted.book,
            source_key=wanted.source_key,
            reversal_id=wanted.id,
            effective_at=wanted.effective_at,
            booked_at=wanted.booked_at,
            cause=wanted.cause,
        )
        return
    booking = wanted.booking(original["id"], await _lines(tx, original))
    await book_waiting(tx, await posting.book(tx, [booking]))


async def book_waiting(tx: Tx, booked: Sequence[Booking]) -> None:
    """Book what was waiting for entries that were booked just now, reversals of those as well.

    Their books are locked since then, so nothing begins to wait meanwhile.
    """
    while booked and await store_reversals.is_any_waiting(tx):
        originals = {
            (booking.tenant_id, booking.entry.book, booking.entry.source_key): booking
            for booking in booked
        }
        bookings = []
        for row in await store_reversals.take_waiting(tx, list(originals)):
            wanted = Wanted(
                id=row["reversal_id"],
                tenant_id=row["tenant_id"],
                book=row["book"],
                source_key=row["source_key"],
                effective_at=row["effective_at"],
                booked_at=row["booked_at"],
                cause=Cause(row["causation_id"], row["correlation_id"]),
            )
            original = originals[wanted.tenant_id, wanted.book, wanted.source_key]
            bookings.append(wanted.booking(original.id, original.entry.lines))
        booked = await posting.book(tx, bookings)


async def _lines(tx: Tx, original: Row) -> list[Line]:
    return [
        Line(chart.named(line["account"]), line["side"], line["amount_minor"], line["currency"])
        for line in await store.postings_of(tx, tx.mode, original["book"], [original])
    ]
