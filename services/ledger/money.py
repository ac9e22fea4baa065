"""Money facts become entries, whatever order they are told in."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import structlog

from libs.contracts.envelope import Envelope
from libs.db.pool import Tx
from libs.messaging.apply import Delivery
from libs.observability.metrics import LEDGER_SUSPENSE_ENTRIES_TOTAL
from services.ledger import posting, reversal
from services.ledger.entries import Entry, entry_id
from services.ledger.rules import RULES
from services.ledger.rules_stripe import SUSPENSE_RULE
from services.ledger.store import Booking

log = structlog.get_logger()


class Draft(msgspec.Struct, frozen=True, gc=False):
    """The entry that a fact leads to, and the id it has whoever books it; None: no money moves."""

    id: UUID | None
    entry: Entry | None


def draft_of(event: Envelope[Any]) -> Draft:
    """What a money fact leads to. It follows from the event alone, so it is done ahead.

    Raises:
        ContradictoryFactError: the amounts of the fact do not add up.
    """
    entry = RULES[type(event.data)](event.data)
    if entry is None or event.mode is None:
        return Draft(None, None)
    place = (event.tenant_id, event.mode, entry.book, entry.source_key)
    return Draft(entry_id(*place, event.occurred_at), entry)


def drafted(delivery: Delivery) -> Draft:
    """What a money fact leads to, where it was not made ahead as well.

    Raises:
        ContradictoryFactError: the amounts of the fact do not add up.
    """
    return delivery.made or draft_of(delivery.event)


async def book_facts(tx: Tx, deliveries: Sequence[Delivery]) -> list[Booking]:
    """Book what the rules make of money facts, and nothing of a fact that was booked before.

    Business time is the event's; booked_at is when the fact was recorded, so that a replay agrees.
    Reversals that were waiting for these facts follow them. What went to suspense is counted, for
    somebody must find out what it is.

    Returns:
        What was not booked before.

    Raises:
        ContradictoryFactError: the amounts of a fact do not add up.
        SourceKeyConflictError: a fact is booked with other content.
    """
    told: dict[Any, Envelope[Any]] = {}
    bookings = []
    for delivery in deliveries:
        event = delivery.event
        draft = drafted(delivery)
        if draft.id is not None and draft.entry is not None:
            booking = Booking(
                id=draft.id,
                tenant_id=event.tenant_id,
                entry=draft.entry,
                effective_at=event.effective_at,
                booked_at=event.occurred_at,
                cause=delivery.cause,
            )
            told[booking.id] = event
            bookings.append(booking)
    booked = await posting.book(tx, bookings)
    for booking in booked:
        if booking.entry.rule == SUSPENSE_RULE:
            fact = told[booking.id].data
            log.error(
                "money_in_suspense",
                kind=fact.kind,
                category=fact.reporting_category,
                object_id=fact.stripe_balance_transaction_id,
                net_minor=fact.net_minor,
                currency=fact.currency,
            )
            tx.after_commit.append(LEDGER_SUSPENSE_ENTRIES_TOTAL.labels(kind=fact.kind).inc)
    await reversal.book_waiting(tx, booked)
    return booked
