"""Usage from the topic to the aggregates: thousands of events in a few statements, each once.

Nothing here reads a clock: an event is held against the moment it came in, so that taking it again
after a crash, or replaying the topic, decides the same.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from pydantic import ValidationError

from libs.clock import InvalidTimeError, format_time, parse_time
from libs.contracts.envelope import MAX_EVENT_BYTES
from libs.contracts.usage import UsageEvent
from libs.db.pool import Tx
from libs.db.tenant import Mode, Scope
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.records import Record, UndecodableError, tenant_of
from libs.observability.metrics import RECORDS_DUPLICATE_TOTAL
from services.metering import exact_json, meters
from services.metering import store_usage as store
from services.metering.aggregation import Gains
from services.metering.measuring import Measurement, Meter, measure_all
from services.metering.reserved_events import take_counted
from services.metering.store_usage import EventKey
from services.metering.window import time_problem

log = structlog.get_logger()

TENANTS_PER_SLICE = 100
"""Row-level security compares every row with each tenant in scope."""

STAMP_AGE_MAX = timedelta(hours=1)
STAMP_AHEAD_MAX = timedelta(minutes=5)
"""How far a record's own `receivedat` may lie before and after the broker's time."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One event off the topic, with what tells it from others."""

    record: Record
    event: UsageEvent
    tenant_id: UUID
    id_hash: bytes
    payload_hash: bytes
    customer: str

    @property
    def key(self) -> EventKey:
        """What makes the event count once."""
        return self.tenant_id, self.id_hash


async def take(records: Sequence[Record], tx: Tx) -> None:
    """Count a batch: bury what can never be counted, add the rest to the aggregates once."""
    slices: dict[Mode, list[Usage]] = {}
    letters: list[DeadLetter] = []
    for record in records:
        try:
            usage = read(record)
        except UndecodableError as error:
            letters.append(DeadLetter(record, error.reason, str(error)))
            continue
        slices.setdefault(usage.event.mode, []).append(usage)
    for mode in sorted(slices):
        for tenants, usages in _by_tenants(slices[mode]):
            letters += await _count(tx, mode, tenants, usages)
    for letter in letters:
        log.warning(
            "usage_refused",
            reason=letter.reason,
            partition=letter.record.partition,
            offset=letter.record.offset,
        )
    await bury(tx, tx.service, letters)


def read(record: Record) -> Usage:
    """The event in a record.

    Raises:
        UndecodableError: it is none, or of another tenant, or too old or from the future.
    """
    tenant_id = tenant_of(record)
    if record.value is None:
        raise UndecodableError("no_value", "the record has no value")
    if len(record.value) > MAX_EVENT_BYTES:
        raise UndecodableError("too_large", "the record is larger than any event may be")
    event = _event_of(record.value)
    if event.tenantid is not None and event.tenantid != tenant_id:
        raise UndecodableError("wrong_tenant", "the event names another tenant than its key")
    _check_times(event, record.at)
    try:
        id_hash = hash_of_id(event.source, event.id)
        payload_hash = hash_of_payload(event)
    except UnicodeEncodeError:
        raise UndecodableError("invalid_text", "a text holds half a character") from None
    except (exact_json.InvalidNumberError, RecursionError) as error:
        raise UndecodableError("invalid_data", str(error)[:200]) from None
    return Usage(record, event, tenant_id, id_hash, payload_hash, customer_of(event.subject))


def hash_of_id(source: str, event_id: str) -> bytes:
    """128 bits of source and id, which together are unique within tenant and mode."""
    start = source.encode()
    text = len(start).to_bytes(4, "big") + start + event_id.encode()
    return hashlib.blake2b(text, digest_size=16).digest()


def hash_of_payload(event: UsageEvent) -> bytes:
    """What an event says, apart from a time that the ingest has set because it named none."""
    time = None if _time_was_set(event) else format_time(event.time)
    said = [event.type, event.subject, event.userid, time, event.data]
    return hashlib.blake2b(exact_json.dumps(said).encode(), digest_size=8).digest()


def customer_of(subject: str | None) -> str:
    """The customer in aggregates: a public id loses its prefix; empty is the tenant itself."""
    if subject is None:
        return ""
    prefix, _, rest = subject.partition("_")
    return rest.lower() if prefix == "cus" and len(rest) == 36 else subject


def _event_of(value: bytes) -> UsageEvent:
    try:
        document = exact_json.loads(value.decode())
    except (ValueError, RecursionError):
        raise UndecodableError("not_json", "the value is not JSON") from None
    if not isinstance(document, dict):
        raise UndecodableError("not_an_event", "the value is not an object")
    try:
        document["time"] = parse_time(document.get("time", ""))
        event = UsageEvent.model_validate(document)
    except (InvalidTimeError, TypeError):
        raise UndecodableError("invalid_time", "the event's time is no RFC 3339 time") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise UndecodableError("not_an_event", detail[:500]) from None
    if event.specversion != "1.0":
        raise UndecodableError("unknown_specversion", "the event is of another specification")
    if has_nul(event):
        raise UndecodableError("invalid_text", "an attribute holds a NUL character")
    return event


def has_nul(event: UsageEvent) -> bool:
    """Whether an attribute holds what Postgres cannot."""
    texts = (event.id, event.source, event.type, event.subject or "", event.userid or "")
    return any("\x00" in text for text in texts)


def _check_times(event: UsageEvent, broker_time: datetime) -> None:
    received_at = event.received_at(broker_time)
    if not broker_time - STAMP_AGE_MAX <= received_at <= broker_time + STAMP_AHEAD_MAX:
        raise UndecodableError("received_at_mismatch", "`receivedat` is far from the broker's time")
    try:
        business_time = received_at + timedelta(seconds=event.clockoffset)
    except OverflowError:
        raise UndecodableError("invalid_time", "`clockoffset` is out of range") from None
    problem = time_problem(event.time, business_time)
    if problem is not None:
        raise UndecodableError(problem, "the event's time is outside what is taken")


def _time_was_set(event: UsageEvent) -> bool:
    return event.receivedat is not None and (
        event.time == event.receivedat + timedelta(seconds=event.clockoffset)
    )


def _by_tenants(usages: Sequence[Usage]) -> Iterable[tuple[tuple[UUID, ...], list[Usage]]]:
    """The events in slices of a bounded number of tenants; their order stays."""
    by_tenant: dict[UUID, list[Usage]] = {}
    for usage in usages:
        by_tenant.setdefault(usage.tenant_id, []).append(usage)
    tenants = sorted(by_tenant)
    for start in range(0, len(tenants), TENANTS_PER_SLICE):
        mine = tuple(tenants[start : start + TENANTS_PER_SLICE])
        yield mine, [usage for tenant in mine for usage in by_tenant[tenant]]


async def _count(
    tx: Tx, mode: Mode, tenants: tuple[UUID, ...], usages: Sequence[Usage]
) -> list[DeadLetter]:
    """Count the events of one slice; what their meters refuse comes back."""
    known = await meters.applying(tx, tenants, mode)
    await tx.enter(Scope(tenants, mode))
    listening = _listening(known, tenants)
    letters: list[DeadLetter] = []
    candidates: dict[EventKey, tuple[Usage, tuple[Measurement, ...]]] = {}
    conflicts = duplicates = 0
    for usage in usages:
        measured = measure_all(listening.get((usage.tenant_id, usage.event.type), ()), usage.event)
        if measured.refusal is not None:
            detail = "a meter cannot use the event"
            letters.append(DeadLetter(usage.record, measured.refusal, detail))
            continue
        first, _ = candidates.setdefault(usage.key, (usage, measured.measurements))
        if first is not usage:
            duplicates += 1
            conflicts += first.payload_hash != usage.payload_hash
    if not candidates:
        return letters
    new, stored = await store.take_new_ids(
        tx,
        {
            key: (usage.payload_hash, usage.record.at.date())
            for key, (usage, _) in candidates.items()
        },
    )
    duplicates += len(stored)
    conflicts += sum(candidates[key][0].payload_hash != there for key, there in stored.items())
    _report(duplicates, conflicts)
    if new:
        await _aggregate(tx, [candidates[key] for key in candidates if key in new])
    return letters


def _listening(
    known: Mapping[UUID, Sequence[Meter]], tenants: Iterable[UUID]
) -> dict[tuple[UUID, str], list[Meter]]:
    """By tenant and event type: the platform's meters, and the tenant's own."""
    found: dict[tuple[UUID, str], list[Meter]] = {}
    for tenant in tenants:
        for meter in meters.of_tenant(known, tenant):
            found.setdefault((tenant, meter.event_type), []).append(meter)
    return found


def _report(duplicates: int, conflicts: int) -> None:
    RECORDS_DUPLICATE_TOTAL.labels(topic="usage.events").inc(duplicates)
    if conflicts:
        log.error("usage_id_conflict", events=conflicts)


async def _aggregate(tx: Tx, counted: Sequence[tuple[Usage, tuple[Measurement, ...]]]) -> None:
    gains = Gains()
    received: dict[UUID, datetime] = {}
    for usage, measurements in counted:
        event = usage.event
        gains.add(
            usage.tenant_id,
            usage.customer,
            event.userid or "",
            event.time,
            usage.id_hash,
            measurements,
        )
        received_at = event.received_at(usage.record.at)
        received[usage.tenant_id] = max(received.get(usage.tenant_id, received_at), received_at)
    if gains.cells:
        await store.add_gains(tx, gains)
        await _unsettle(tx, gains)
    await store.note_progress(tx, received)
    await take_counted(
        tx, ((usage.tenant_id, usage.event, measurements) for usage, measurements in counted)
    )


async def _unsettle(tx: Tx, gains: Gains) -> None:
    """Closed periods that gained something are to be answered again."""
    minutes: dict[UUID, list[datetime]] = {}
    for tenant, _, minute in gains.cells:
        minutes.setdefault(tenant, []).append(minute)
    every = [minute for mine in minutes.values() for minute in mine]
    closures = await store.closures_over(tx, sorted(minutes), min(every), max(every))
    touched = [
        (tenant, closure)
        for tenant, closure, start, end in closures
        if any(start <= minute < end for minute in minutes[tenant])
    ]
    if touched:
        await store.unsettle(tx, touched)
