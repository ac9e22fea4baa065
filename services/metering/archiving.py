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
from services.metering.store_archive import Place
from services.metering.usage_reader import RECORDS_MAX, Bounds, UsageReader

log = structlog.get_logger()


STRETCHES_MAX = 20
"""Of one partition in one run."""


class CutShortError(RuntimeError):
    """The topic gave less than the stretch that was settled; it is tried again."""


async def archive_usage(
    database: Database, reader: UsageReader, folder: Path, every: timedelta
) -> None:
    """Archive what is due of each partition: enough records wait, or they wait long enough."""
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
        stands = place
        for _ in range(STRETCHES_MAX):
            if not _is_due(stands, found.end, now, every):
                break
            reached = await _archive_stretch(database, reader, folder, stands, found.end, now)
            stands = reached or stands
            if reached is None or reached.next_offset >= found.end:
                break
        if stands.next_offset < found.end:
            oldest = max(oldest, now - stands.archived_at)
    USAGE_ARCHIVE_AGE_SECONDS.set(oldest.total_seconds())
    USAGE_ARCHIVE_LOST_RECORDS.set(sum(place.lost_records for place in places))


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
