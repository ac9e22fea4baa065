"""Keeping the core's tables small: what is no longer needed goes, some rows at a time.

An inbox row outlives every record it could meet again (topics that are replayed keep their effects
by business keys); a sent outbox row and a kept answer are of use for a few days.
"""

from datetime import timedelta

from libs.clock import utc_now
from libs.db.pool import Database
from libs.observability.metrics import PARKED_RECORDS

RULES = (
    ("inbox", "received_at", timedelta(days=40)),
    ("outbox", "sent_at", timedelta(days=7)),
    ("idempotency_key", "created_at", timedelta(days=7)),
)
"""Table, the time that counts (an unsent row has none), and how long a row is kept."""

BATCH_ROWS = 5_000
BATCHES_MAX = 20


async def prune(database: Database) -> None:
    """Delete what is past its time: at most 20 batches of 5,000 rows of each table."""
    now = utc_now()
    for table, column, kept in RULES:
        for _ in range(BATCHES_MAX):
            async with database.maintenance() as tx:
                deleted = await tx.execute(
                    f"delete from {table} where ctid = any(array(select ctid from {table} "  # noqa: S608 - constants only
                    f"where {column} < $1 limit {BATCH_ROWS} for update skip locked))",
                    now - kept,
                )
            if deleted < BATCH_ROWS:
                break


async def measure(database: Database) -> None:
    """Show how many records wait behind parked keys."""
    async with database.maintenance() as tx:
        PARKED_RECORDS.set(await tx.fetchval("select coalesce(sum(records), 0) from parked_key"))
