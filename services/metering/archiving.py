"""Archiving `usage.events`: stretch by stretch, each written before the place moves behind it.

The archiver reads the topic itself and not what the consumer has counted, so that neither waits for
the other. A stretch is settled in the database before it is written: begun again after a crash it is
the same stretch and makes the same files.

A service archives in a process of its own (`archiver`), which lasts as long as something is due. Its work
is nearly all Python: in a thread of the service it would keep requests waiting for tens of milliseconds.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from aiokafka.errors import KafkaError

from libs.clock import utc_now
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.messaging.topic_reader import RECORDS_MAX, Bounds
from libs.observability.metrics import USAGE_ARCHIVE_AGE_SECONDS, USAGE_ARCHIVE_LOST_RECORDS
from services.metering import archive
from services.metering import store_archive as store
from services.metering.admission import Admission
from services.metering.store_archive import Place
from services.metering.usage_reader import UsageReader

log = structlog.get_logger()


ARCHIVER = "services.metering.archiver"

LOOK_SECONDS = 30.0
"""From one look to the next: a process that archives takes as long to start as 60,000 records do, and one
that starts seldom finds more to do."""

STRETCHES_MAX = 100
"""Of one partition in one run: more than come in between two of them, however busy a tenant."""

ENDS_WITHIN = timedelta(minutes=30)
"""The archiver is given up after that; what it has written by then stays written."""

HINDERED: tuple[type[BaseException], ...] = (KafkaError, *TRANSIENT_ERRORS)
"""Kafka, Postgres or the disk may be there again at the next turn."""
HINDERED_STATUS = os.EX_TEMPFAIL
"""With which the archiver ends then."""


class CutShortError(RuntimeError):
    """The topic gave less than the stretch that was settled; it is tried again."""


class ArchiverFailedError(RuntimeError):
    """The process that archives ended with a failure; its log says why, and it is tried again."""


class ArchiverHinderedError(OSError):
    """The process that archives could not go on for now; its log says why, and it is tried again."""


async def archive_apart(
    database: Database, reader: UsageReader, every: timedelta, program: str = ARCHIVER
) -> None:
    """Look what is due, and where anything is have it archived by a process of its own.

    Args:
        program: the module to run; it has this process's environment.

    Raises:
        ArchiverHinderedError: something it needs was away, or it took too long.
        ArchiverFailedError: it could not archive everything for another reason.
    """
    now = utc_now()
    bounds, places = await _look(database, reader, now)
    _measure(places, {place.partition: _age(place, bounds, now) for place in places})
    if not any(_has_work(place, bounds[place.partition], now, every) for place in places):
        return
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", program)
    try:
        async with asyncio.timeout(ENDS_WITHIN.total_seconds()):
            status = await process.wait()
    except TimeoutError:
        raise ArchiverHinderedError(f"the archiver did not end within {ENDS_WITHIN}") from None
    finally:
        if process.returncode is None:
            # Whoever goes on makes the same files.
            process.kill()
            await process.wait()
    if status == HINDERED_STATUS:
        raise ArchiverHinderedError("the archiver could not go on for now")
    if status != 0:
        raise ArchiverFailedError(f"the archiver ended with status {status}")


async def archive_usage(
    database: Database,
    reader: UsageReader,
    folder: Path,
    every: timedelta,
    admission: Admission | None = None,
) -> None:
    """Archive what is due of each partition: enough records wait, or they wait long enough.

    What the consumer refuses for want of proof is not archived: the files keep no proofs.

    A partition that fails holds up no other. When all had their turn the first failure is raised,
    and before it the first that does not pass by itself.
    """
    now = utc_now()
    bounds, places = await _look(database, reader, now)
    ages = {place.partition: _age(place, bounds, now) for place in places}
    failures: list[Exception] = []
    try:
        for place in places:
            found = bounds[place.partition]
            try:
                stands = await _archive_partition(
                    database, reader, folder, place, found, now, every, admission
                )
            except Exception as error:
                log.warning(
                    "partition_not_archived",
                    partition=place.partition,
                    error=f"{type(error).__name__}: {error}"[:200],
                    exc_info=not isinstance(error, HINDERED),
                )
                failures.append(error)
            else:
                ages[place.partition] = _age(stands, bounds, now)
    finally:
        _measure(places, ages)
    if failures:
        raise min(failures, key=lambda error: isinstance(error, HINDERED))


async def _look(
    database: Database, reader: UsageReader, now: datetime
) -> tuple[dict[int, Bounds], list[Place]]:
    """Where every partition begins and ends, and how far it is archived."""
    bounds = await reader.bounds()
    begins = {partition: each.begin for partition, each in bounds.items()}
    return bounds, await store.list_places(database, begins, now)


def _measure(places: Sequence[Place], ages: Mapping[int, timedelta]) -> None:
    oldest = max(ages.values(), default=timedelta())
    USAGE_ARCHIVE_AGE_SECONDS.set(oldest.total_seconds())
    USAGE_ARCHIVE_LOST_RECORDS.set(sum(place.lost_records for place in places))


def _age(place: Place, bounds: Mapping[int, Bounds], now: datetime) -> timedelta:
    """How long what is not archived has waited at most."""
    waits = place.next_offset < bounds[place.partition].end
    return now - place.archived_at if waits else timedelta()


def _has_work(place: Place, bounds: Bounds, now: datetime, every: timedelta) -> bool:
    """Whether a stretch is due, or it is to be noted that some is lost."""
    return place.next_offset < bounds.begin or _is_due(place, bounds.end, now, every)


async def _archive_partition(
    database: Database,
    reader: UsageReader,
    folder: Path,
    place: Place,
    bounds: Bounds,
    now: datetime,
    every: timedelta,
    admission: Admission | None,
) -> Place:
    """Archive what is due of one partition; where it stands then."""
    if place.next_offset < bounds.begin:
        await _skip_lost(database, place, bounds)
        return place
    stands = place
    for _ in range(STRETCHES_MAX):
        if not _is_due(stands, bounds.end, now, every):
            break
        reached = await _archive_stretch(
            database, reader, folder, stands, bounds.end, now, admission
        )
        stands = reached or stands
        if reached is None or reached.next_offset >= bounds.end:
            break
    return stands


def _is_due(place: Place, end: int, now: datetime, every: timedelta) -> bool:
    """Whether a stretch is to be written, or it is to be said that there is nothing to write."""
    waited = now - place.archived_at >= every
    return place.planned_offset is not None or waited or end - place.next_offset >= RECORDS_MAX


async def _archive_stretch(
    database: Database,
    reader: UsageReader,
    folder: Path,
    place: Place,
    log_end: int,
    now: datetime,
    admission: Admission | None,
) -> Place | None:
    """Write the next stretch, if there is anything in it.

    Returns:
        Where the partition stands then; None where another worker is at it.
    """
    first, planned = place.next_offset, place.planned_offset
    records = (
        await reader.read(place.partition, first, planned or log_end, whole=planned is not None)
        if first < log_end
        else []
    )
    end = records[-1].offset + 1 if records else first
    if planned is not None and end != planned:
        raise CutShortError(f"partition {place.partition} ends at {end}, not at {planned}")
    if records and planned is None and not await store.plan(database, place, end):
        return None
    if admission is not None:
        async with database.transaction() as tx:
            records = list((await admission.sort(tx, records))[0])
    files = await asyncio.to_thread(archive.write, folder, place.partition, first, end, records)
    caught_up = end >= log_end
    await store.finish(database, place, end, files, now if caught_up else None)
    return replace(
        place,
        next_offset=end,
        planned_offset=None,
        archived_at=now if caught_up else place.archived_at,
    )


async def _skip_lost(database: Database, place: Place, bounds: Bounds) -> None:
    log.critical(
        "usage_lost_before_it_was_archived",
        partition=place.partition,
        records=bounds.begin - place.next_offset,
    )
    await store.skip_lost(database, place, bounds.begin)
