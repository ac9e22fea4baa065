"""Usage from the topic to the aggregates: thousands of events in a few statements, each once.

Nothing here reads a clock: an event is held against the moment it came in, so that taking it again
after a crash, or replaying the topic, decides the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import structlog

from libs.db.pool import Tx
from libs.db.tenant import Mode, Scope
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.records import Record, UndecodableError
from libs.observability.metrics import RECORDS_DUPLICATE_TOTAL
from services.metering import (
    closing,
    conflicts,
    meters,
    overreach,
    thresholds,
    usage_record,
    voiding,
)
from services.metering import store_usage as store
from services.metering.aggregation import Gains
from services.metering.event_ids import entered_before, entered_unmarked
from services.metering.listening import UNREAD, Heard, Listening, Reading, Rows, Value
from services.metering.reserved_events import SOURCE as RESERVATION
from services.metering.reserved_events import take_counted
from services.metering.store_conflicts import Conflict
from services.metering.store_usage import TENANT_BYTES, EventKey
from services.metering.store_voids import note_came
from services.metering.usage_record import Origin, Place, Read
from services.metering.voiding import VOIDED, Used

log = structlog.get_logger()

TENANTS_PER_SLICE = 100
"""Row-level security compares every row with each tenant in scope."""

_heard = Heard()


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """What stands in a record, and what the meters of a while ago read from it, where they are known."""

    read: Read
    reading: Reading


class Usage(msgspec.Struct, gc=False):
    """One event off the topic, the record it came in, and what meters read from it."""

    record: Record
    read: Read
    reading: Reading


def read_ahead(record: Record) -> Prepared | UndecodableError | None:
    """What `take` will find in a record, worked out before its turn; never an exception.

    None where reading fails in a way nobody foresaw: in its turn it fails again, and the record is
    isolated among the others of its batch.
    """
    try:
        found = _read_or_refuse(record)
        if isinstance(found, UndecodableError):
            return found
        listening = _heard.lately(found.place)
        if listening is None or found.event.type == VOIDED:
            return Prepared(found, UNREAD)
        return Prepared(found, listening.read(found))
    except Exception:  # noqa: BLE001 - out here it would hold up the whole partition
        return None


def _read_or_refuse(record: Record) -> Read | UndecodableError:
    try:
        return usage_record.read(record)
    except UndecodableError as error:
        return error.unraised()


async def take(records: Sequence[Record], tx: Tx) -> None:
    """Count a batch: bury what can never be counted, add the rest to the aggregates once."""
    usages: dict[Place, list[Usage]] = {}
    letters: list[DeadLetter] = []
    place: Place | None = None
    for record in records:
        prepared = record.prepared
        if type(prepared) is Prepared:
            found: Read | UndecodableError = prepared.read
            reading = prepared.reading
        else:
            found, reading = prepared or _read_or_refuse(record), UNREAD
        if isinstance(found, UndecodableError):
            letters.append(DeadLetter(record, found.reason, str(found)))
            continue
        if found.place is not place:
            place = found.place
            mine = usages.setdefault(place, [])
        mine.append(Usage(record, found, reading))
    for mode in sorted({mode for _, mode in usages}):
        places = sorted(place for place in usages if place[1] == mode)
        for start in range(0, len(places), TENANTS_PER_SLICE):
            lists = [usages[place] for place in places[start : start + TENANTS_PER_SLICE]]
            letters += await _count(tx, mode, {mine[0].read.tenant_id: mine for mine in lists})
    for letter in letters:
        log.warning(
            "usage_refused",
            reason=letter.reason,
            partition=letter.record.partition,
            offset=letter.record.offset,
        )
    await bury(tx, tx.service, letters)


async def _count(tx: Tx, mode: Mode, usages: Mapping[UUID, Sequence[Usage]]) -> list[DeadLetter]:
    """Count the events of one slice, by tenant; what their meters refuse comes back."""
    tenants = tuple(usages)
    known = await meters.applying(tx, tenants, mode)
    await tx.enter(Scope(tenants, mode))
    usages = await _as_entered(tx, usages)
    letters = await _void(tx, usages)
    candidates: dict[EventKey, Usage] = {}
    again: list[Usage] = []
    for tenant, mine in usages.items():
        listening = _heard.now(tenant, mode, meters.of_tenant(known, tenant))
        refused = _measure(listening, mine, candidates, again)
        letters += [
            DeadLetter(usage.record, code, "a meter cannot use the event")
            for usage, code in refused
        ]
    if not candidates:
        return letters
    new, stored = await store.take_new_ids(tx, candidates)
    await _report(tx, candidates, again, stored)
    if len(new) + len(stored) < len(candidates):
        voided = candidates.keys() - new - stored.keys()
        await _free_voided(tx, {key: candidates[key] for key in voided})
    if len(new) == len(candidates):
        await _aggregate(tx, list(candidates.values()))
    elif new:
        await _aggregate(tx, [usage for key, usage in candidates.items() if key in new])
    return letters


def _measure(
    listening: Listening,
    usages: Sequence[Usage],
    candidates: dict[EventKey, Usage],
    again: list[Usage],
) -> list[tuple[Usage, str]]:
    """Hold a tenant's events against its meters; those that must be refused, with the reason.

    Args:
        candidates: where the rest goes, each once.
        again: where those go that came before in this batch.
    """
    refused = []
    for usage in usages:
        reading = usage.reading
        if reading.by is not listening:
            if usage.read.event.type == VOIDED:
                continue
            reading = usage.reading = listening.read(usage.read)
        if reading.refusal is not None:
            refused.append((usage, reading.refusal))
        elif candidates.setdefault(usage.read.key, usage) is not usage:
            again.append(usage)
    return refused


async def _as_entered(
    tx: Tx, usages: Mapping[UUID, Sequence[Usage]]
) -> Mapping[UUID, Sequence[Usage]]:
    """Events whose ids were entered under the hash of former versions, under that."""
    names = (
        (usage.read.key, voiding.named_by(usage.read.event))
        for mine in usages.values()
        for usage in mine
    )
    former = {**await _entered_unmarked(tx, usages), **await entered_before(tx, names)}
    if not former:
        return usages
    return {tenant: [_under(usage, former) for usage in mine] for tenant, mine in usages.items()}


async def _entered_unmarked(
    tx: Tx, usages: Mapping[UUID, Sequence[Usage]]
) -> Mapping[EventKey, bytes]:
    """The hashes of the platform's events that were entered before it marked its own."""
    reads = [usage.read for mine in usages.values() for usage in mine]
    if not any(read.is_special and read.event.by_platform for read in reads):
        return {}
    return await entered_unmarked(
        tx,
        [
            (
                read.key,
                voiding.named_by(read.event) if voiding.is_of_platform(read.event) else None,
                read.origin.day,
            )
            for read in reads
        ],
    )


def _under(usage: Usage, former: Mapping[EventKey, bytes]) -> Usage:
    """An event under the hash that its id was entered under."""
    id_hash = former.get(usage.read.key)
    if id_hash is None:
        return usage
    key = usage.read.key[:TENANT_BYTES] + id_hash
    return Usage(usage.record, msgspec.structs.replace(usage.read, key=key), usage.reading)


async def _void(tx: Tx, usages: Mapping[UUID, Sequence[Usage]]) -> list[DeadLetter]:
    """Take back what voids name; voids of what cannot be taken back come back."""
    voids = [
        usage
        for mine in usages.values()
        for usage in mine
        if usage.read.is_special and usage.read.event.type == VOIDED
    ]
    if not voids:
        return []
    await overreach.tell(tx, [(usage.record, usage.read) for usage in voids])
    changed, unknown = await voiding.take_back(
        tx, {usage.read.key: usage.read.origin.day for usage in voids}
    )
    if changed:
        await closing.unsettle(tx, changed)
    detail = "the event was counted before it was kept what events add"
    return [
        DeadLetter(usage.record, "counted_without_record", detail)
        for usage in voids
        if usage.read.key in unknown
    ]


async def _report(
    tx: Tx,
    candidates: Mapping[EventKey, Usage],
    again: Sequence[Usage],
    stored: Mapping[EventKey, bytes],
) -> None:
    """Tell which events came again, and which of those with another content.

    Args:
        again: those that came twice in this batch, without the first.
        stored: the payload hashes of those that had been counted before.
    """
    repeated = [*again, *(candidates[key] for key in stored)]
    if not repeated:
        return
    RECORDS_DUPLICATE_TOTAL.labels(topic="usage.events").inc(len(repeated))
    await conflicts.note(
        tx,
        [
            Conflict(
                usage.read.tenant_id,
                usage.record.partition,
                usage.record.offset,
                usage.record.at,
                usage.read.event.source,
                usage.read.event.id,
                usage.read.event.type,
                usage.read.customer,
            )
            for usage in repeated
            if usage.read.payload_hash != _hash_there(usage.read.key, candidates, stored)
        ],
    )


def _hash_there(
    key: EventKey, candidates: Mapping[EventKey, Usage], stored: Mapping[EventKey, bytes]
) -> bytes:
    """The hash of what counts under an id: counted before, or now."""
    there = stored.get(key)
    return candidates[key].read.payload_hash if there is None else there


async def _free_voided(tx: Tx, voided: Mapping[EventKey, Usage]) -> None:
    """What was settled of a reservation and voided before it came weighs on no limit any more."""
    settled = {
        key: usage for key, usage in voided.items() if usage.read.event.source == RESERVATION
    }
    if not settled:
        return
    came = await note_came(tx, {key: usage.read.payload_hash for key, usage in settled.items()})
    await _take_counted(tx, [settled[key] for key in sorted(came)])


async def _take_counted(tx: Tx, usages: Sequence[Usage]) -> None:
    """What was settled of reservations weighs as usage from now on."""
    settled = [
        usage
        for usage in usages
        if usage.read.is_special and usage.read.event.source == RESERVATION
    ]
    if settled:
        await take_counted(
            tx,
            (
                (usage.read.tenant_id, usage.read.event, measured.measurements)
                for usage in settled
                for measured in (usage.reading.by.measure(usage.read),)
            ),
        )


async def _aggregate(tx: Tx, counted: Sequence[Usage]) -> None:
    """Add new events to the aggregates, and do what follows from that."""
    added_up, single = _sorted_out(counted)
    gains = Gains()
    for rows, values in added_up.items():
        for line, mine in zip(rows.lines, zip(*values, strict=True), strict=True):
            added = mine if line.numbered else ()
            gains.add_up(line.series, rows.minute.at, len(values), added)
    for used in single:
        gains.add(*used)
    if gains.cells:
        await store.add_gains(tx, gains)
        await closing.unsettle(tx, gains.changes())
    await voiding.keep_values(tx, single)
    await store.note_progress(tx, _last_received(counted))
    await _take_counted(tx, counted)
    limited = {
        (line.series.tenant_id, line.series.customer, rows.minute.at)
        for rows in added_up
        for line in rows.lines
        if line.limited
    }
    limited |= {
        (used.tenant_id, used.customer, used.at)
        for used in single
        if any(each.meter.limited for each in used.measurements)
    }
    await thresholds.note_used(tx, limited)


def _sorted_out(
    counted: Sequence[Usage],
) -> tuple[dict[Rows, list[Sequence[Value]]], list[Used]]:
    """What events add, by rows where it is added up; of other meters, event by event."""
    added_up: dict[Rows, list[Sequence[Value]]] = {}
    single: list[Used] = []
    for usage in counted:
        reading = usage.reading
        values = added_up.get(reading.rows)
        if values is None:
            added_up[reading.rows] = [reading.values]
        else:
            values.append(reading.values)
        if reading.single:
            read, event = usage.read, usage.read.event
            single.append(
                Used(
                    read.tenant_id,
                    read.customer,
                    event.userid or "",
                    event.time,
                    read.id_hash,
                    reading.single,
                )
            )
    return added_up, single


def _last_received(counted: Sequence[Usage]) -> dict[UUID, datetime]:
    """When the newest of these events came in, by tenant."""
    last: dict[UUID, datetime] = {}
    at: datetime | None = None
    origin: Origin | None = None
    for usage in counted:
        read = usage.read
        if read.received_at is at and read.origin is origin:
            continue  # of the same request, as nearly always
        at, origin = read.received_at, read.origin
        last[origin.tenant_id] = max(at, last.get(origin.tenant_id, at))
    return last
