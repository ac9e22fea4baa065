"""Backfills: usage of before the window, that never was counted, told as one job.

Whether such an event was counted before its id does not tell any more, for ids are forgotten. So a
backfill compares with the archive first: what was counted then is known and left out. The rest is
published like any usage, marked as the backfill's; its ids are kept for ever, so that no later backfill
counts it again. A crash at any step publishes some events again, which count once.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import structlog
from aiokafka.errors import KafkaError

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.messaging.records import Record, UndecodableError
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.metering import (
    archive,
    meters,
    store_archive,
    store_closures,
    store_usage,
    usage_record,
    voiding,
)
from services.metering import store_backfills as store
from services.metering.archive import ArchivedFile
from services.metering.event_ids import former_hash_of_id, hash_of_id
from services.metering.ingest import Arrival, RejectedError, read_event, stamped_anew
from services.metering.listening import Listening
from services.metering.reserved_events import SOURCE
from services.metering.store_backfills import Job, Waiting
from services.metering.usage_log import TOPIC, LogUnavailableError, UsageLog
from services.metering.verdicts import Verdict, text_at

log = structlog.get_logger()

EVENTS_MAX = 50_000
"""Of one backfill."""

OPEN_MAX = 5
"""Of a tenant in one mode at a time, until they are done or dropped."""

PAGE_EVENTS = 1_000
PAGE_BYTES = 4 * 1024 * 1024
"""No more than Kafka confirms in time: what it does not costs the ingest its producer too."""

PAGES_MAX = 20
"""Published of one backfill in one run."""

LEFT_AFTER = timedelta(days=1)
"""A backfill that nobody goes on with for so long is dropped."""


class TooManyBackfillsError(ValueError):
    """The tenant has as many as it may have at a time."""


class TooManyEventsError(ValueError):
    """The backfill would hold more than one may."""


@dataclass(frozen=True)
class Judged:
    """A verdict per event, and those that are to wait."""

    verdicts: list[Verdict]
    accepted: list[Waiting]


async def begin(tx: Tx, backfill_id: UUID, reason: str, actor: str) -> None:
    """Begin a backfill of the tenant in scope.

    Raises:
        TooManyBackfillsError: others have to be done or dropped first.
    """
    if await store.lock_and_count_open(tx) >= OPEN_MAX:
        raise TooManyBackfillsError
    await store.add(tx, backfill_id, reason, actor, utc_now())


async def take_in(
    tx: Tx, backfill_id: UUID, held: int, sent: Sequence[object], arrival: Arrival
) -> list[Verdict]:
    """Let events of one request wait in a backfill that is locked; a verdict per event.

    Args:
        held: how many wait already.

    Raises:
        TooManyEventsError: nothing was taken in.
    """
    found = [_judge(each, arrival) for each in sent]
    hashes = {each.id_hash for each in found if isinstance(each, Waiting)}
    seen = await store.payloads(tx, backfill_id, hashes)
    verdicts: list[Verdict] = []
    accepted: list[Waiting] = []
    for each in found:
        if isinstance(each, Verdict):
            verdicts.append(each)
            continue
        verdict = Verdict(each.event_id, each.source, "accepted")
        there = seen.setdefault(each.id_hash, each.payload_hash)
        if there is each.payload_hash:
            accepted.append(each)
        elif there == each.payload_hash:
            verdict.status = "duplicate"
        else:
            verdict.status, verdict.code = "rejected", "id_conflict"
        verdicts.append(verdict)
    if held + len(accepted) > EVENTS_MAX:
        raise TooManyEventsError
    await store.take_in(tx, backfill_id, accepted, arrival.received_at)
    return verdicts


def _judge(sent: object, arrival: Arrival) -> Waiting | Verdict:
    source, event_id = text_at(sent, "source"), text_at(sent, "id")
    if source == SOURCE:
        return Verdict(event_id, source, "rejected", "reserved_source")
    named = sent.get("tenantid") if isinstance(sent, dict) else None
    if named not in (None, str(arrival.tenant_id)):
        return Verdict(event_id, source, "rejected", "wrong_tenant")
    try:
        value = read_event(sent, arrival).value
    except RejectedError as rejected:
        return Verdict(event_id, source, "rejected", rejected.code)
    key = str(arrival.tenant_id).encode()
    read = usage_record.read(Record(TOPIC, 0, 0, arrival.received_at, key, value))
    return Waiting(read.id_hash, read.payload_hash, read.event.source, read.event.id, value)


async def work(database: Database, usage_log: UsageLog, folder: Path, *, limit: int) -> None:
    """Go on with the backfills that are due, each by a step."""
    now = utc_now()
    for job in await store.list_due(database, now - LEFT_AFTER, limit=limit):
        try:
            match job.state:
                case "comparing":
                    await _compare(database, folder, job)
                case "publishing":
                    await _publish(database, usage_log, job)
                case "counting":
                    await _see_whether_counted(database, job)
                case _:
                    await _drop(database, job)
        except (LogUnavailableError, KafkaError, OSError, TimeoutError) as error:
            log.warning("backfill_waits", backfill=str(job.id), error=type(error).__name__)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="work_on_backfills").inc()
            log.exception("backfill_failed", backfill=str(job.id))
        # Whatever came of it, the others have their turns first: one that is stuck stops nobody else's.
        async with database.tenant(job.tenant_id, job.mode) as tx:
            await store.put_behind(tx, job.id, utc_now())


async def _compare(database: Database, folder: Path, job: Job) -> None:
    """Leave out what was counted before, or voided before it came."""
    async with database.transaction() as tx:
        defined = await meters.applying(tx, [job.tenant_id], job.mode)
    listening = Listening(job.tenant_id, meters.of_tenant(defined, job.tenant_id))
    whole = await store_archive.is_whole(database)
    if not whole:
        log.warning("backfill_compared_with_part_of_the_usage", backfill=str(job.id))
    async with database.tenant(job.tenant_id, job.mode) as tx:
        names = await store.names(tx, job.id)
        files = await store_archive.files_of(tx, job.tenant_id)
        marked_since = await store_usage.marked_since(tx)
    known = await asyncio.to_thread(
        find_known, folder, files, names, listening, marked_since.date()
    )
    async with database.tenant(job.tenant_id, job.mode) as tx:
        row = await store.lock(tx, job.id)
        if row is not None and row["state"] == "comparing":
            await store.let_go(tx, job, known, utc_now(), known=True)
            await store.note_compared(tx, job.id, whole=whole)
            await store.move(tx, job.id, "publishing", utc_now())


def find_known(
    folder: Path,
    files: Sequence[ArchivedFile],
    names: Sequence[tuple[str, str]],
    listening: Listening,
    unmarked_until: date,
) -> set[bytes]:
    """Of these names the ids that the archive says were counted, or voided.

    Args:
        unmarked_until: what came in until then without a mark may be the platform's as well as the tenant's.
    """
    hashes = {each(*name) for name in names for each in (hash_of_id, former_hash_of_id)}
    hashes |= {hash_of_id(*name, by_platform=True) for name in names}
    voids = [(voiding.SOURCE, each.hex()) for each in hashes]
    records = archive.find(folder, files, [*names, *voids])
    return {each for record in records for each in _counted_as(record, listening, unmarked_until)}


def _counted_as(record: Record, listening: Listening, unmarked_until: date) -> Iterator[bytes]:
    """The ids that an archived event was counted under, or a void names; none where it was refused."""
    try:
        found = usage_record.read(record)
    except UndecodableError:
        return
    if found.event.type != voiding.VOIDED and listening.read(found).refusal is not None:
        return
    yield found.id_hash
    if not found.event.by_platform and record.at.date() <= unmarked_until:
        yield hash_of_id(*voiding.named_by(found.event), by_platform=True)


async def _publish(database: Database, usage_log: UsageLog, job: Job) -> None:
    """Publish what waits, page by page; behind the last it is only to be counted."""
    for _ in range(PAGES_MAX):
        async with database.tenant(job.tenant_id, job.mode) as tx:
            page = await store.waiting(tx, job.id, limit=PAGE_EVENTS, bytes_max=PAGE_BYTES)
        if not page:
            break
        now = utc_now()
        values = [stamped_anew(each.value, now) for each in page]
        await usage_log.publish(job.tenant_id, values)
        async with database.tenant(job.tenant_id, job.mode) as tx:
            await store.let_go(tx, job, [each.id_hash for each in page], now)
    else:
        return
    ends = await usage_log.end_offsets()
    async with database.tenant(job.tenant_id, job.mode) as tx:
        await store.move(tx, job.id, "counting", utc_now(), barrier=ends)


async def _see_whether_counted(database: Database, job: Job) -> None:
    """Done is a backfill when the consumer has passed all that was published."""
    fences = await store_closures.usage_fences(database)
    if any(fences.get(place, 0) < end for place, end in (job.barrier or {}).items()):
        return
    async with database.tenant(job.tenant_id, job.mode) as tx:
        await store.move(tx, job.id, "done", utc_now(), is_over=True)


async def _drop(database: Database, job: Job) -> None:
    """What was begun and never started is thrown away, with the events in it."""
    async with database.tenant(job.tenant_id, job.mode) as tx:
        row = await store.lock(tx, job.id)
        if row is not None and row["state"] == "open":
            await store.drop_events(tx, job.id)
            await store.move(tx, job.id, "dropped", utc_now(), is_over=True)
