"""The archive month by month: made ahead of time, dropped when older than anybody wants it."""

from datetime import UTC, datetime

import structlog

from libs.db.pool import Database
from services.gateway import store_months

log = structlog.get_logger()

AHEAD_MONTHS = 3
REST_EVENTS_MAX = 5_000


async def make_ahead(database: Database, now: datetime) -> None:
    """The running month and the next three."""
    async with database.maintenance() as tx:
        await store_months.make_months(tx, now, 1 + AHEAD_MONTHS)


async def drop_old(database: Database, now: datetime, kept_months: int) -> None:
    """Drop what is older than the running month and so many before it; 0 keeps everything.

    The ids stay taken: an event that was dropped is not let in again.
    """
    if not kept_months:
        return
    cutoff = begin_of_month(now, kept_months)
    async with database.maintenance() as tx:
        dropped = await store_months.drop_months(tx, cutoff)
        deleted = await store_months.delete_rest(tx, cutoff, REST_EVENTS_MAX)
    if dropped or deleted:
        log.info("archive_dropped", months=dropped, further_events=deleted)


def begin_of_month(now: datetime, back: int) -> datetime:
    """The first moment (UTC) of the month so many months before this one."""
    months = now.year * 12 + now.month - 1 - back
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
