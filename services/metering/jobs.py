"""Timed work of metering, each a bounded `run_once`."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from libs.clock import utc_now
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.metering import (
    backfills,
    closing,
    conflicts,
    forecasts,
    planned,
    reservations,
    store_closures,
    store_producers,
    store_usage,
    store_voids,
    thresholds,
)
from services.metering.usage_log import UsageLog
from services.metering.window import AGE_MAX, DEDUP_DAYS, ids_kept_since

log = structlog.get_logger()

CLOSURES_MAX = 200
PRUNED_IDS_MAX = 10_000
PRUNING_SECONDS_MAX = 10.0
RESERVATIONS_MAX = 500
PUBLISHED_MAX = 50
CUSTOMERS_LOOKED_AT_MAX = 200
FORECASTS_MAX = 20
BACKFILLS_MAX = 5
OCCURRENCES_MAX = 100


async def close_periods(database: Database, usage_log: UsageLog) -> None:
    """Answer the closed periods whose time has come and whose usage is all counted.

    The barrier is taken only now, after the period and its grace are over, so that everything
    that came in before lies before it.
    """
    now = utc_now()
    due = await store_closures.list_due(database, now, limit=CLOSURES_MAX)
    fresh = [closure for closure in due if closure.barrier is None]
    if fresh:
        ends = await usage_log.end_offsets()
        await store_closures.set_barrier(database, fresh, ends)
        due = await store_closures.list_due(database, now, limit=CLOSURES_MAX)
    if not due:
        return
    fences = await store_closures.usage_fences(database)
    for closure in due:
        if closure.barrier is None:
            continue
        if any(fences.get(place, 0) < end for place, end in closure.barrier.items()):
            continue
        settled = False
        try:
            async with database.tenant(closure.tenant_id, closure.mode) as tx:
                settled = await closing.answer(tx, closure, now + closure.clock_offset)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="close_periods").inc()
            log.exception("closure_failed", closure_id=str(closure.id))
        if not settled:
            async with database.tenant(closure.tenant_id, closure.mode) as tx:
                await store_closures.put_off(tx, closure.id, utc_now())


async def _until_done(prune: Callable[[], Awaitable[int]]) -> None:
    """Prune piece by piece until nothing is left, or the time is up: a day's ids are many."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PRUNING_SECONDS_MAX
    while await prune() >= PRUNED_IDS_MAX and loop.time() < until:
        continue


async def prune_event_ids(database: Database) -> None:
    """Forget the ids of events that would be refused by their age anyway."""
    before = ids_kept_since(utc_now().date())
    await _until_done(partial(store_usage.prune_ids, database, before, limit=PRUNED_IDS_MAX))


async def prune_usage_values(database: Database) -> None:
    """Forget the values behind minutes of which no event can be voided any more."""
    # An event comes in up to the age taken after its time, and its id stays for the window then.
    before = utc_now() - AGE_MAX - timedelta(days=DEDUP_DAYS + 2)
    await _until_done(partial(store_voids.prune_values, database, before, limit=PRUNED_IDS_MAX))


async def end_reservations(database: Database, usage_log: UsageLog) -> None:
    """Free what was held and never ended; publish what was settled while Kafka was away."""
    await reservations.expire(database, RESERVATIONS_MAX)
    await reservations.publish_left(database, usage_log, PUBLISHED_MAX)


async def look_at_limits(database: Database, directory: Directory) -> None:
    """Tell the thresholds and limits that customers reached since the last run."""
    await thresholds.look_again(database, directory, limit=CUSTOMERS_LOOKED_AT_MAX)


async def prune_conflicts(database: Database) -> None:
    """Forget conflicts whose ids are forgotten too."""
    before = ids_kept_since(utc_now().date())
    await conflicts.prune(database, before, limit=PRUNED_IDS_MAX)


async def work_on_backfills(database: Database, usage_log: UsageLog, folder: Path) -> None:
    """Compare, publish and see counted what backfills hold."""
    await backfills.work(database, usage_log, folder, limit=BACKFILLS_MAX)


async def prune_refusals(database: Database) -> None:
    """Forget what was refused on days of which nothing lies on the topic any more."""
    before = ids_kept_since(utc_now().date())
    await store_producers.prune_refusals(database, before, limit=PRUNED_IDS_MAX)


async def refresh_forecasts(database: Database, directory: Directory) -> None:
    """Make forecasts again that are an hour old."""
    await forecasts.refresh(database, directory, limit=FORECASTS_MAX)


async def decide_planned_usage(database: Database, directory: Directory) -> None:
    """Hold planned usage that is due, where limits and credit allow it."""
    await planned.decide_due(database, directory, limit=OCCURRENCES_MAX)
