"""The spool: events that are durable here and wait for Kafka. It has an end.

With Kafka away webhooks are still taken, until so many events wait that the disk is in danger; from
then on Stripe is told to come back, which it does for days.
"""

import structlog

from libs.db.pool import Database
from services.gateway import store_spool

log = structlog.get_logger()


class SpoolFullError(Exception):
    """Too many events wait to be sent."""


class Spool:
    """Knows whether there is room; looked at by a job, so that no webhook pays for the look."""

    def __init__(self, database: Database, events_max: int) -> None:
        self._database = database
        self._events_max = events_max
        self._full = False

    async def measure(self) -> None:
        """Look whether there is room; the cost is bounded by the limit."""
        async with self._database.maintenance() as tx:
            unsent = await store_spool.count_unsent(tx, self._events_max)
        full = unsent >= self._events_max
        if full and not self._full:
            log.error("spool_full", unsent=unsent)
        self._full = full

    def require_room(self) -> None:
        """Let a webhook in.

        Raises:
            SpoolFullError: Stripe should send it again later.
        """
        if self._full:
            raise SpoolFullError
