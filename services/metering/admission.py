"""Which records of `usage.events` are counted, where not everybody who reaches the topic is trusted.

A record that proves no right to its tenant and mode is a dead letter, and staff are told: once a day
for each producer and reason, so that a flood fills no log. Everything is decided by the record and by
what is stored for ever, so a replay and a rebuild decide the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from libs.db.tenant import NOBODY
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.outbox import emit
from libs.messaging.records import Record
from services.metering import intake, reserved_events, store_producers, voiding
from services.metering.producers import Pass, ProducerKeys, Refusal
from services.metering.usage_event import Event

NOBODY_KNOWN = "anonymous"
NEVER = datetime.max.replace(tzinfo=UTC)
RESERVED_SOURCES = frozenset({reserved_events.SOURCE, voiding.SOURCE})
DETAIL = "the record proves no right to this tenant's usage"


@dataclass(frozen=True)
class Refused:
    """A record that is not counted, and who showed which pass."""

    record: Record
    reason: Refusal
    shown: Pass | None = None

    @property
    def actor(self) -> str:
        """Who is told to have tried."""
        return NOBODY_KNOWN if self.shown is None else f"producer_{self.shown.producer_id}"

    @property
    def mode(self) -> Mode:
        """The mode that staff is told in."""
        return "live" if self.shown is None else self.shown.mode


@dataclass(frozen=True)
class Admission:
    """Lets through what our ingest published, and what producers may.

    Attributes:
        since: what came in before is taken unproved: nobody could prove anything then.
    """

    keys: ProducerKeys
    since: datetime

    async def take(self, records: Sequence[Record], tx: Tx) -> None:
        """Count what may be counted of a batch, and put the rest aside."""
        admitted, refused = await self.sort(tx, records)
        if refused:
            await _put_aside(tx, refused)
        if admitted:
            await intake.take(admitted, tx)

    async def sort(
        self, tx: Tx, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[Refused]]:
        """Which records may be counted, in order, and which not."""
        refused: dict[int, Refused] = {}
        shown: dict[int, Pass] = {}
        for place, record in enumerate(records):
            if record.at < self.since:
                continue
            refusal, held = self.keys.check(record)
            if refusal is not None:
                refused[place] = Refused(record, refusal, held)
            elif held is not None:
                shown[place] = held
        if shown:
            refused |= await _without_right(tx, records, shown)
        if not refused:
            return records, []
        admitted = [record for place, record in enumerate(records) if place not in refused]
        return admitted, [refused[place] for place in sorted(refused)]


def admission_since(since: datetime | None, keys: ProducerKeys) -> Admission | None:
    """What holds from a moment on; None where whoever reaches the topic is trusted."""
    return None if since is None else Admission(keys, since)


async def _without_right(
    tx: Tx, records: Sequence[Record], shown: dict[int, Pass]
) -> dict[int, Refused]:
    """Of records with a good pass those that no producer may publish, or this one may not (any more)."""
    revoked: dict[UUID, datetime] = {}
    for mode, owners, producers in _by_mode(shown.values()):
        revoked |= await store_producers.revoked(tx, mode, owners, producers)
    await tx.enter(NOBODY)
    refused = {}
    for place, held in shown.items():
        record = records[place]
        if revoked.get(held.producer_id, NEVER) <= record.at:
            refused[place] = Refused(record, "pass_revoked", held)
            continue
        read = record.prepared or intake.read_ahead(record)
        if isinstance(read, intake.Prepared):
            reason = _beyond(held, read.read.event)
            if reason is not None:
                refused[place] = Refused(record, reason, held)
    return refused


def _beyond(held: Pass, event: Event) -> Refusal | None:
    """Why a pass does not cover an event that only our own ingest publishes; None where it does.

    A business clock is ahead of ours, and only in test mode: an offset that is negative, or live, would
    make an event as young as its producer likes.
    """
    if event.mode != held.mode:
        return "not_its_mode"
    if event.backfill is not None:
        return "backfill"
    if event.by_platform and held.tenant_id is not None:
        return "reserved"
    if event.type == voiding.VOIDED or event.source in RESERVED_SOURCES:
        return "reserved"
    if event.clockoffset < 0 or (event.clockoffset and event.mode == "live"):
        return "clock_offset"
    return None


def _by_mode(shown: Iterable[Pass]) -> Iterable[tuple[Mode, set[UUID], set[UUID]]]:
    """The owners and the producers of passes, by mode."""
    found: dict[Mode, tuple[set[UUID], set[UUID]]] = {}
    for each in shown:
        owners, producers = found.setdefault(each.mode, (set(), set()))
        owners.add(each.tenant_id or PLATFORM_TENANT_ID)
        producers.add(each.producer_id)
    for mode in sorted(found):
        yield mode, *found[mode]


async def _put_aside(tx: Tx, refused: Sequence[Refused]) -> None:
    """Bury records, and tell staff what was not told yet."""
    await bury(tx, tx.service, [DeadLetter(each.record, each.reason, DETAIL) for each in refused])
    for mode in sorted({each.mode for each in refused}):
        first: dict[tuple[date, str, str], str] = {}
        for each in refused:
            if each.mode == mode:
                record = each.record
                place = f"{record.topic}/{record.partition}/{record.offset}"
                first.setdefault((record.at.date(), each.actor, each.reason), place)
        for day, actor, reason in await store_producers.enter_refusals(tx, mode, first):
            fact = SecurityEventRaised(
                kind="usage_refused",
                severity="warning",
                actor=actor,
                service=tx.service,
                method="PUBLISH",
                path=first[day, actor, reason],
                permission=reason,
            )
            emit(tx, fact)
    await tx.enter(NOBODY)
