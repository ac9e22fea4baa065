"""Voids of a tenant's that name what the platform reported: they do nothing, and staff are told.

The ingest refuses such a void where it knows the event. Here it is seen whoever published it, and however
soon after the event it came.
"""

from collections.abc import Sequence
from datetime import date

from libs.contracts.audit import SecurityEventRaised
from libs.db.pool import Tx
from libs.messaging.outbox import emit
from libs.messaging.records import Record
from services.metering import store_producers, voiding
from services.metering import store_usage as store
from services.metering.event_ids import hash_of_id
from services.metering.reporters import CORRECTION_REFUSED, REPORTED_BY_PLATFORM
from services.metering.store_usage import TENANT_BYTES, EventKey
from services.metering.usage_record import Read

ACTOR_LENGTH_MAX = 64
NOBODY_KNOWN = "anonymous"


async def tell(tx: Tx, voids: Sequence[tuple[Record, Read]]) -> None:
    """Tell of voids that name only an event of the platform's, once a day for each actor.

    They are looked at before they take effect: one that names an event of the tenant's own too is right.
    """
    named: dict[EventKey, tuple[Record, Read]] = {}
    for record, read in voids:
        if not read.event.by_platform:
            name = voiding.named_by(read.event)
            platforms = read.key[:TENANT_BYTES] + hash_of_id(*name, by_platform=True)
            named.setdefault(platforms, (record, read))
    if not named:
        return
    there = await store.ids_there(tx, sorted(named))
    own = await store.ids_there(tx, sorted(named[key][1].key for key in there)) if there else set()
    wrong = [named[key] for key in sorted(there) if named[key][1].key not in own]
    if wrong:
        await _raise(tx, wrong)


async def _raise(tx: Tx, wrong: Sequence[tuple[Record, Read]]) -> None:
    first: dict[tuple[date, str, str], str] = {}
    for record, read in wrong:
        place = f"{record.topic}/{record.partition}/{record.offset}"
        first.setdefault((record.at.date(), _actor_of(read), REPORTED_BY_PLATFORM), place)
    scope = tx.scope
    for day, actor, reason in await store_producers.enter_refusals(tx, tx.mode, first):
        fact = SecurityEventRaised(
            kind=CORRECTION_REFUSED,
            severity="warning",
            actor=actor,
            service=tx.service,
            method="PUBLISH",
            path=first[day, actor, reason],
            permission=reason,
        )
        emit(tx, fact)
    await tx.enter(scope)


def _actor_of(read: Read) -> str:
    """Who voids, as the ingest wrote it."""
    actor = read.event.data.get("actor")
    if isinstance(actor, str) and actor.isprintable() and 0 < len(actor) <= ACTOR_LENGTH_MAX:
        return actor
    return NOBODY_KNOWN
