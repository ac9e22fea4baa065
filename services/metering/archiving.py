"""Archiving `usage.events`: stretch by stretch, each written before the place moves behind it.

The archiver reads the topic itself and not what the consumer has counted, so that neither waits for
the other. A stretch is settled in the database before it is written: begun again after a crash it is
the same stretch and makes the same files.
"""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from libs.clock import utc_now
from libs.db.pool import Database
from libs.observability.metrics import USAGE_ARCHIVE_AGE_SECONDS, USAGE_ARCHIVE_LOST_RECORDS
from services.metering import archive
from services.metering import store_archive as store
from services.metering.store_archive import Place
from services.metering.usage_reader import RECORDS_MAX, Bounds, UsageReader

log = structlog.get_logger()


class CutShortError(RuntimeError):
    """The topic gave less than the stretch that was settled; it is tried again."""


async def archive_usage(
    database: Database, reader: UsageReader, folder: Path, every: timedelta
) -> None:
    """Archive one stretch of each partition that is due: enough records wait, or long enough."""
    now = utc_now()
    bounds = await reader.bounds()
    begins = {partition: each.begin for partition, each in bounds.items()}
    places = await store.list_places(database, begins, now)
    oldest = timedelta()
    for place in places:
        found = bounds[place.partition]
        if place.next_offset < found.begin:
            await _skip_lost(database, place, found)
            continue
        waiting = found.end - place.next_offset
        due = waiting >= RECORDS_MAX or now - place.archived_at >= every
        if place.planned_offset is not None or (waiting and due):
            await _archive_stretch(database, reader, folder, place, found.end, now)
        if waiting:
            oldest = max(oldest, now - place.archived_at)
        elif due:
            await store.finish(database, place, place.next_offset, (), now)
    USAGE_ARCHIVE_AGE_SECONDS.set(oldest.total_seconds())
    USAGE_ARCHIVE_LOST_RECORDS.set(sum(place.lost_records for place in places))


async def _archive_stretch(
    database: Database,
    reader: UsageReader,
    folder: Path,
    place: Place,
    log_end: int,
    now: datetime,
) -> None:
    planned = place.planned_offset
    records = await reader.read(
        place.partition, place.next_offset, planned or log_end, whole=planned is not None
    )
    end = records[-1].offset + 1 if records else place.next_offset
    if planned is None:
        if not records or not await store.plan(database, place, end):
            return
    elif end != planned:
        raise CutShortError(f"partition {place.partition} ends at {end}, not at {planned}")
    files = await asyncio.to_thread(
        archive.write, folder, place.partition, place.next_offset, end, records
    )
    await store.finish(database, place, end, files, now if end >= log_end else None)


async def _skip_lost(database: Database, place: Place, bounds: Bounds) -> None:
    log.critical(
        "usage_lost_before_it_was_archived",
        partition=place.partition,
        records=bounds.begin - place.next_offset,
    )
    await store.skip_lost(database, place, bounds.begin)
