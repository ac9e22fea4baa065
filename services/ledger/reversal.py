"""Taking an entry back: a new entry with its postings on the other sides, once."""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Cause, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.ledger import chart, posting, store
from services.ledger.chart import Side
from services.ledger.entries import Entry, Line
from services.ledger.store import Booking

REVERSAL_RULE = "reversal"
OTHER_SIDE: dict[Side, Side] = {"debit": "credit", "credit": "debit"}


class NoSuchEntryError(LookupError):
    """No book in scope has this entry."""


class AlreadyReversedError(ValueError):
    """The entry was taken back before."""


async def reverse(
    tx: Tx,
    entry_id: UUID,
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
    """
    original = await store.find_entry(tx, entry_id)
    if original is None:
        raise NoSuchEntryError
    postings = await store.postings_of(tx, tx.mode, original["book"], [original])
    reversal_id = new_id()
    change = ConfigurationChanged(
        action="ledger_entry.reversed",
        actor=actor,
        object_id=public_id("entry", entry_id),
        after={
            "reversal": public_id("entry", reversal_id),
            "source_key": original["source_key"],
            "reason": reason,
        },
    )
    asked = emit(tx, change, effective_at=now)
    entry = Entry(
        original["book"],
        f"reversal:{entry_id}",
        REVERSAL_RULE,
        tuple(
            Line(
                chart.named(line["account"]),
                OTHER_SIDE[line["side"]],
                line["amount_minor"],
                line["currency"],
            )
            for line in postings
        ),
    )
    booking = Booking(
        id=reversal_id,
        tenant_id=tx.tenant_id,
        entry=entry,
        effective_at=effective_at,
        booked_at=now,
        cause=Cause(asked.id, asked.correlation_id),
        reverses=entry_id,
    )
    if not await posting.book(tx, [booking]):
        raise AlreadyReversedError
    return reversal_id
