"""Timed work of tenants, each a bounded `run_once`."""

from datetime import timedelta

from libs.clock import utc_now
from libs.crypto.tokens import LEEWAY_SECONDS, LIFE_SECONDS_MAX
from libs.db.pool import Database
from services.tenants import bootstrap, store_people
from services.tenants.settings import Settings

# Twice the life of an assertion: one made at the very end is stale long before.
REVOCATION_KEPT = timedelta(seconds=2 * (LIFE_SECONDS_MAX + LEEWAY_SECONDS))
KEPT = timedelta(days=1)


async def ensure_reserved(database: Database, settings: Settings) -> None:
    """The reserved tenants, the first operator and a signing key exist."""
    await bootstrap.run_once(database, settings)


async def prune(database: Database) -> None:
    """Delete sessions that have expired, and what was kept for a while only.

    Answers under an `Idempotency-Key` and counts of failed sign-ins are kept for a day.
    """
    now = utc_now()
    async with database.maintenance() as tx:
        await store_people.prune(
            tx, assertions_before=now - REVOCATION_KEPT, now=now, failures_before=now - KEPT
        )
