"""The spool: events that are durable here and wait for Kafka. It has an end.

With Kafka away webhooks are still taken, until so many events wait, or so much of them, that the disk
is in danger; from then on Stripe is told to come back, which it does for days. What comes in at one
tenant's own URL is told so earlier, while there is room for all others.
"""

from uuid import UUID

import structlog

from libs.db.pool import Database
from services.gateway import store_spool
from services.gateway.store_spool import Unsent

log = structlog.get_logger()

BYTES_MAX = 10 * 1024**3
TENANT_PERCENT = 10


class SpoolFullError(Exception):
    """Too much waits to be sent."""


class Spool:
    """Knows whether there is room; looked at by a job, so that no webhook pays for the look."""

    def __init__(
        self,
        database: Database,
        events_max: int,
        *,
        bytes_max: int = BYTES_MAX,
        tenant_percent: int = TENANT_PERCENT,
    ) -> None:
        self._database = database
        self._max = Unsent(events_max, bytes_max)
        self._share_max = Unsent(
            max(1, events_max * tenant_percent // 100), max(1, bytes_max * tenant_percent // 100)
        )
        self._full = False
        self._over_share: frozenset[UUID] = frozenset()

    async def measure(self) -> None:
        """Look whether there is room; the cost is bounded by the limit."""
        async with self._database.maintenance() as tx:
            waiting = await store_spool.find_unsent(tx, self._max.events)
        events = sum(each.events for each in waiting.values())
        unsent = Unsent(events, sum(each.bytes for each in waiting.values()))
        full = unsent.reaches(self._max)
        if full and not self._full:
            log.error("spool_full", unsent=unsent.events, bytes=unsent.bytes)
        over_share = frozenset(
            tenant_id for tenant_id, each in waiting.items() if each.reaches(self._share_max)
        )
        for tenant_id in over_share - self._over_share:
            log.warning("spool_share_full", tenant_id=str(tenant_id))
        self._full, self._over_share = full, over_share

    def require_room(self) -> None:
        """Let a webhook in.

        Raises:
            SpoolFullError: Stripe should send it again later.
        """
        if self._full:
            raise SpoolFullError

    def require_share(self, tenant_id: UUID) -> None:
        """Let a webhook in that came to a tenant's own URL.

        Raises:
            SpoolFullError: so much of the tenant's waits that what comes next may be others' only.
        """
        if tenant_id in self._over_share:
            raise SpoolFullError
