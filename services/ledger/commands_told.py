"""Entries that were asked for, told again: books that are made anew hold them as well."""

from collections.abc import Sequence
from uuid import UUID

from libs.contracts.ledger import PostEntry
from libs.db.pool import Tx
from libs.messaging.apply import Delivery
from services.ledger import chart, posting, reversal, store_commands
from services.ledger.commands_asked import POST_RULE
from services.ledger.entries import Entry, Line
from services.ledger.store import Booking


async def take_commands(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Book what commands tell of, unless it is booked: in books that are made anew."""
    told = await _unbooked(tx, [_told_again(each) for each in deliveries])
    if not told:
        return
    facts: dict[UUID, PostEntry] = {
        each.event.data.entry_id: each.event.data for each in deliveries
    }
    booked = await posting.book(tx, told)
    for book in dict.fromkeys(each.entry.book for each in booked):
        asked = [
            (each, facts[each.id].metadata, facts[each.id].actor)
            for each in booked
            if each.entry.book == book
        ]
        await store_commands.note_asked(tx, book, asked)
    await reversal.book_waiting(tx, booked)


async def _unbooked(tx: Tx, bookings: Sequence[Booking]) -> list[Booking]:
    """Those that are not booked with their content, which is all but none: a look is enough mostly."""
    booked: set[int] = set()
    for book in dict.fromkeys(booking.entry.book for booking in bookings):
        places = [place for place, each in enumerate(bookings) if each.entry.book == book]
        mine = [bookings[place] for place in places]
        booked |= {places[at] for at in await store_commands.find_as_told(tx, book, mine)}
    return [booking for place, booking in enumerate(bookings) if place not in booked]


def _told_again(delivery: Delivery) -> Booking:
    event, fact = delivery.event, delivery.event.data
    lines = tuple(
        Line(chart.named(line.account), line.side, line.amount_minor, line.currency)
        for line in fact.postings
    )
    return Booking(
        id=fact.entry_id,
        tenant_id=event.tenant_id,
        entry=Entry(fact.book, fact.source_key, POST_RULE, lines),
        effective_at=event.effective_at,
        booked_at=fact.booked_at,
        cause=delivery.cause,
    )
