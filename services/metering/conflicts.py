"""Events that came under the id of another content: counted once, as the first, and reported.

Read again, the topic must report nothing twice: each partition's count remembers the offset up to
which it stands. How many there were is exact; what they were is kept of the first of each day.
"""

from collections.abc import Iterable
from datetime import date

import structlog

from libs.db.pool import Database, Tx
from libs.observability.metrics import USAGE_CONFLICTS_TOTAL
from services.metering import store_conflicts as store
from services.metering.store_conflicts import Conflict, Place

log = structlog.get_logger()

KEPT_PER_DAY = 100
"""Conflicts of a tenant, mode, partition and day of which more than the number is kept."""


async def note(tx: Tx, found: Iterable[Conflict]) -> None:
    """Report the conflicts of a batch that were not reported yet."""
    by_place: dict[Place, list[Conflict]] = {}
    for conflict in found:
        by_place.setdefault(conflict.place, []).append(conflict)
    if not by_place:
        return
    standing = await store.counts(tx, sorted(by_place))
    kept: list[Conflict] = []
    totals: dict[Place, tuple[int, int]] = {}
    for place, mine in by_place.items():
        count, next_offset = standing.get(place, (0, 0))
        new = sorted(
            (each for each in mine if each.offset >= next_offset), key=lambda each: each.offset
        )
        if new:
            kept += new[: max(KEPT_PER_DAY - count, 0)]
            totals[place] = (len(new), new[-1].offset + 1)
    if totals:
        await store.add(tx, totals, kept)
        number = sum(count for count, _ in totals.values())
        USAGE_CONFLICTS_TOTAL.inc(number)
        log.error("usage_id_conflict", events=number)


async def prune(database: Database, received_before: date, *, limit: int) -> None:
    """Forget what came in before a day."""
    async with database.maintenance() as tx:
        await store.prune(tx, received_before, limit)
