"""Usage from the topic to the aggregates: thousands of events in a few statements, each once.

Nothing here reads a clock: an event is held against the moment it came in, so that taking it again
after a crash, or replaying the topic, decides the same.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import structlog

from libs.clock import format_time
from libs.contracts.envelope import MAX_EVENT_BYTES
from libs.db.pool import Tx
from libs.db.tenant import Mode, Scope
from libs.ids import parse_uuid
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.records import Record, UndecodableError, tenant_of
from libs.observability.metrics import RECORDS_DUPLICATE_TOTAL
from services.metering import closing, conflicts, exact_json, gained, meters, thresholds, voiding
from services.metering import store_usage as store
from services.metering.aggregation import Gains
from services.metering.event_ids import entered_before, hash_of_id
from services.metering.measuring import Measurement, Meter, measure_all
from services.metering.reserved_events import SOURCE as RESERVATION
from services.metering.reserved_events import take_counted
from services.metering.store_conflicts import Conflict
from services.metering.store_usage import EventKey
from services.metering.store_voids import note_came
from services.metering.usage_event import Event, read_event
from services.metering.window import stamp_of, time_problem

log = structlog.get_logger()

TENANTS_PER_SLICE = 100
"""Row-level security compares every row with each tenant in scope."""

TENANTS_REMEMBERED = 10_000


class Read(NamedTuple):
    """What stands in a record, with what tells it from others; it follows from the record alone."""

    event: Event
    tenant_id: UUID
    id_hash: bytes
    payload_hash: bytes
    customer: str
    received_at: datetime


class Usage(NamedTuple):
    """One event off the topic, and the record it came in."""

    record: Record
    event: Event
    tenant_id: UUID
    id_hash: bytes
    payload_hash: bytes
    customer: str
    received_at: datetime

    @property
    def key(self) -> EventKey:
        """What makes the event count once."""
        return self.tenant_id.bytes + self.id_hash


class Counted(NamedTuple):
    """An event, and what the meters read from it."""

    usage: Usage
    measurements: tuple[Measurement, ...]


def read_ahead(record: Record) -> Read | UndecodableError | None:
    """What `take` will find in a record, worked out before its turn; never an exception.

    None where reading fails in a way nobody foresaw: in its turn it fails again, and the record is
    isolated among the others of its batch.
    """
    try:
        return _read_or_refuse(record)
    except Exception:  # noqa: BLE001 - out here it would hold up the whole partition
        return None


def _read_or_refuse(record: Record) -> Read | UndecodableError:
    try:
        return read(record)
    except UndecodableError as error:
        return error


async def take(records: Sequence[Record], tx: Tx) -> None:
    """Count a batch: bury what can never be counted, add the rest to the aggregates once."""
    slices: dict[Mode, dict[UUID, list[Usage]]] = {}
    letters: list[DeadLetter] = []
    for record in records:
        found = record.prepared or _read_or_refuse(record)
        if isinstance(found, UndecodableError):
            letters.append(DeadLetter(record, found.reason, str(found)))
            continue
        by_tenant = slices.setdefault(found.event.mode, {})
        by_tenant.setdefault(found.tenant_id, []).append(Usage(record, *found))
    for mode in sorted(slices):
        tenants = sorted(slices[mode])
        for start in range(0, len(tenants), TENANTS_PER_SLICE):
            mine = tenants[start : start + TENANTS_PER_SLICE]
            letters += await _count(tx, mode, {tenant: slices[mode][tenant] for tenant in mine})
    for letter in letters:
        log.warning(
            "usage_refused",
            reason=letter.reason,
            partition=letter.record.partition,
            offset=letter.record.offset,
        )
    await bury(tx, tx.service, letters)


def read(record: Record) -> Read:
    """The event in a record.

    Raises:
        UndecodableError: it is none, or of another tenant, or too old or from the future.
    """
    tenant_id = _tenant_named(record.key) or tenant_of(record)
    if record.value is None:
        raise UndecodableError("no_value", "the record has no value")
    if len(record.value) > MAX_EVENT_BYTES:
        raise UndecodableError("too_large", "the record is larger than any event may be")
    event = read_event(record.value)
    if event.tenantid is not None and event.tenantid != tenant_id:
        raise UndecodableError("wrong_tenant", "the event names another tenant than its key")
    stamp = stamp_of(event.receivedat, event.clockoffset, record.at)
    if not max(stamp.earliest, gained.EPOCH) <= event.time <= stamp.latest:
        problem = time_problem(event.time, stamp.business_time)
        raise UndecodableError(
            problem or "invalid_time", "the event's time is outside what is taken"
        )
    try:
        id_hash = hash_of_id(*voiding.named_by(event))
        was_set = event.receivedat is not None and event.time == stamp.business_time
        payload_hash = _hash_of_payload(event, None if was_set else event.time)
    except UnicodeEncodeError:
        raise UndecodableError("invalid_text", "a text holds half a character") from None
    except (exact_json.InvalidNumberError, RecursionError) as error:
        raise UndecodableError("invalid_data", str(error)[:200]) from None
    customer = "" if event.subject is None else customer_of(event.subject)
    return Read(event, tenant_id, id_hash, payload_hash, customer, stamp.received_at)


def _hash_of_payload(event: Event, time: datetime | None) -> bytes:
    """What an event says; the time is None where the ingest has set it because it named none."""
    text = None if time is None else format_time(time)
    said = [event.type, event.subject, event.userid, text, event.data]
    return hashlib.blake2b(exact_json.dumps(said), digest_size=8).digest()


def customer_of(subject: str | None) -> str:
    """The customer in aggregates: a public id loses its prefix; empty is the tenant itself."""
    if subject is None:
        return ""
    prefix, _, rest = subject.partition("_")
    return rest.lower() if prefix == "cus" and len(rest) == 36 else subject


@lru_cache(maxsize=TENANTS_REMEMBERED)
def _tenant_named(key: bytes | None) -> UUID | None:
    """The tenant in a record's key, remembered; None where `tenant_of` has to say what is wrong."""
    text = (key or b"").decode("utf-8", "backslashreplace")
    tenant_id = parse_uuid(text)
    return tenant_id if str(tenant_id) == text else None


async def _count(tx: Tx, mode: Mode, usages: Mapping[UUID, Sequence[Usage]]) -> list[DeadLetter]:
    """Count the events of one slice, by tenant; what their meters refuse comes back."""
    tenants = tuple(usages)
    known = await meters.applying(tx, tenants, mode)
    await tx.enter(Scope(tenants, mode))
    usages = await _as_entered(tx, usages)
    letters = await _void(tx, usages)
    candidates: dict[EventKey, Counted] = {}
    again: list[Usage] = []
    for tenant, mine in usages.items():
        listening = _listening(meters.of_tenant(known, tenant))
        for usage in mine:
            if usage.event.type == voiding.VOIDED:
                continue
            found = listening.get(usage.event.type, ())
            if found and usage.received_at < found[-1].counts_from:
                found = _since(found, usage)
            measured = measure_all(found, usage.event)
            if measured.refusal is not None:
                detail = "a meter cannot use the event"
                letters.append(DeadLetter(usage.record, measured.refusal, detail))
                continue
            counted = Counted(usage, measured.measurements)
            if candidates.setdefault(usage.key, counted) is not counted:
                again.append(usage)
    if not candidates:
        return letters
    new, stored = await store.take_new_ids(
        tx, {key: _entry(counted) for key, counted in candidates.items()}
    )
    await _report(tx, candidates, again, stored)
    await _free_voided(
        tx,
        {key: found for key, found in candidates.items() if key not in new and key not in stored},
    )
    if new:
        await _aggregate(tx, [candidates[key] for key in candidates if key in new])
    return letters


async def _as_entered(
    tx: Tx, usages: Mapping[UUID, Sequence[Usage]]
) -> Mapping[UUID, Sequence[Usage]]:
    """Events whose ids were entered under the hash of former versions, under that."""
    names = (
        (usage.key, voiding.named_by(usage.event)) for mine in usages.values() for usage in mine
    )
    former = await entered_before(tx, names)
    if not former:
        return usages
    return {
        tenant: [usage._replace(id_hash=former.get(usage.key, usage.id_hash)) for usage in mine]
        for tenant, mine in usages.items()
    }


async def _void(tx: Tx, usages: Mapping[UUID, Sequence[Usage]]) -> list[DeadLetter]:
    """Take back what voids name; voids of what cannot be taken back come back."""
    voids = [
        usage for mine in usages.values() for usage in mine if usage.event.type == voiding.VOIDED
    ]
    if not voids:
        return []
    changed, unknown = await voiding.take_back(
        tx, {usage.key: usage.record.at.date() for usage in voids}
    )
    if changed:
        await closing.unsettle(tx, changed)
    detail = "the event was counted before it was kept what events add"
    return [
        DeadLetter(usage.record, "counted_without_record", detail)
        for usage in voids
        if usage.key in unknown
    ]


def _entry(counted: Counted) -> tuple[bytes, date, bytes]:
    usage, measurements = counted
    event = usage.event
    added = gained.write(
        usage.tenant_id, usage.customer, event.userid or "", event.time, measurements
    )
    return usage.payload_hash, usage.record.at.date(), added


def _listening(known: Sequence[Meter]) -> dict[str, list[Meter]]:
    """The meters of a tenant's events by the type they listen to, the newest last."""
    found: dict[str, list[Meter]] = {}
    for meter in sorted(known, key=lambda meter: meter.counts_from):
        found.setdefault(meter.event_type, []).append(meter)
    return found


def _since(known: Sequence[Meter], usage: Usage) -> list[Meter]:
    """The meters that had been defined when an event came in; a rebuild must find the same.

    Of an event without a stamp of ours only the second is known: it counts to the end of it.
    """
    at = usage.received_at
    if usage.event.receivedat is None:
        at += timedelta(seconds=1)
    return [meter for meter in known if meter.counts_from <= at]


async def _report(
    tx: Tx,
    candidates: Mapping[EventKey, Counted],
    again: Sequence[Usage],
    stored: Mapping[EventKey, bytes],
) -> None:
    """Tell which events came again, and which of those with another content.

    Args:
        again: those that came twice in this batch, without the first.
        stored: the payload hashes of those that had been counted before.
    """
    RECORDS_DUPLICATE_TOTAL.labels(topic="usage.events").inc(len(again) + len(stored))
    repeated = [*again, *(candidates[key].usage for key in stored)]
    await conflicts.note(
        tx,
        [
            Conflict(
                usage.tenant_id,
                usage.record.partition,
                usage.record.offset,
                usage.record.at,
                usage.event.source,
                usage.event.id,
                usage.event.type,
                usage.customer,
            )
            for usage in repeated
            if usage.payload_hash != stored.get(usage.key, candidates[usage.key].usage.payload_hash)
        ],
    )


async def _free_voided(tx: Tx, voided: Mapping[EventKey, Counted]) -> None:
    """What was settled of a reservation and voided before it came weighs on no limit any more."""
    settled = {
        key: found for key, found in voided.items() if found.usage.event.source == RESERVATION
    }
    if not settled:
        return
    came = await note_came(tx, {key: found.usage.payload_hash for key, found in settled.items()})
    freed = [settled[key] for key in sorted(came)]
    await take_counted(
        tx, ((usage.tenant_id, usage.event, measurements) for usage, measurements in freed)
    )


async def _aggregate(tx: Tx, counted: Sequence[Counted]) -> None:
    gains = Gains()
    received: dict[UUID, datetime] = {}
    for usage, measurements in counted:
        event, tenant_id, received_at = usage.event, usage.tenant_id, usage.received_at
        gains.add(
            tenant_id,
            usage.customer,
            event.userid or "",
            event.time,
            usage.id_hash,
            measurements,
        )
        if received.setdefault(tenant_id, received_at) < received_at:
            received[tenant_id] = received_at
    if gains.cells:
        await store.add_gains(tx, gains)
        await closing.unsettle(tx, gains.changes())
    await voiding.keep_values(
        tx,
        (
            voiding.Used(
                usage.tenant_id,
                usage.customer,
                usage.event.userid or "",
                usage.event.time,
                usage.id_hash,
                measurements,
            )
            for usage, measurements in counted
        ),
    )
    await store.note_progress(tx, received)
    await take_counted(
        tx, ((usage.tenant_id, usage.event, measurements) for usage, measurements in counted)
    )
    await thresholds.note_used(
        tx,
        (
            (usage.tenant_id, usage.customer, usage.event.time)
            for usage, measurements in counted
            if any(each.meter.limited for each in measurements)
        ),
    )
