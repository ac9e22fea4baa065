"""Archiving `usage.events`: stretch by stretch, each written before the place moves behind it.

The archiver reads the topic itself and not what the consumer has counted, so that neither waits for
the other. A stretch is settled in the database before it is written: begun again after a crash it is
the same stretch and makes the same files.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from libs.clock import utc_now
from libs.db.pool import Database
from libs.observability.metrics import USAGE_ARCHIVE_AGE_SECONDS, USAGE_ARCHIVE_LOST_RECORDS
from services.metering import archive
from services.metering import store_archive as store
from services.metering.admission import Admission
from services.metering.store_archive import Place
from services.metering.usage_reader import RECORDS_MAX, Bounds, UsageReader

log = structlog.get_logger()


STRETCHES_MAX = 20
"""Of one partition in one run."""


class CutShortError(RuntimeError):
    """The topic gave less than the stretch that was settled; it is tried again."""


async def archive_usage(
    database: Database,
    reader: UsageReader,
    folder: Path,
    every: timedelta,
    admission: Admission | None = None,
) -> None:
    """Archive what is due of each partition: enough records wait, or they wait long enough.

    What the consumer refuses for want of proof is not archived: the files keep no proofs.

    A partition that fails holds up no other; the first failure is raised when all had their turn.
    """
    now = utc_now()
    bounds = await reader.bounds()
    begins = {partition: each.begin for partition, each in bounds.items()}
    places = await store.list_places(database, begins, now)
    ages = {place.partition: _age(place, bounds[place.partition].end, now) for place in places}
    failures: list[Exception] = []
    try:
        for place in places:
            found = bounds[place.partition]
            try:
                stands = await _archive_partition(
                    database, reader, folder, place, found, now, every, admission
                )
            except Exception as error:
                log.exception("partition_not_archived", partition=place.partition)
                failures.append(error)
            else:
                ages[place.partition] = _age(stands, found.end, now)
    finally:
        oldest = max(ages.values(), default=timedelta())
        USAGE_ARCHIVE_AGE_SECONDS.set(oldest.total_seconds())
        USAGE_ARCHIVE_LOST_RECORDS.set(sum(place.lost_records for place in places))
    if failures:
        raise failures[0]


def _age(place: Place, end: int, now: datetime) -> timedelta:
    """How long what is not archived has waited at most."""
    return now - place.archived_at if place.next_offset < end else timedelta()


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
