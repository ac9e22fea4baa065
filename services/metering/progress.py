"""How far the consumer is: a moment up to which everything that came in is counted."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.topics import PARTITIONS
from libs.db.pool import Database
from services.metering import store_closures as store
from services.metering.usage_log import UsageLog, usage_partition


class Progress:
    """Compares where `usage.events` ended a moment ago with where its fences are now."""

    def __init__(self) -> None:
        self._asked_at: datetime | None = None
        self._ends: Mapping[int, int] = {}
        self._caught_up_at: dict[int, datetime] = {}

    async def note(self, database: Database, usage_log: UsageLog) -> None:
        """Look again; partitions that have passed the ends last seen were caught up then."""
        fences = await store.usage_fences(database)
        if self._asked_at is not None:
            for partition, end in self._ends.items():
                if end == 0 or fences.get(partition, 0) >= end:
                    self._caught_up_at[partition] = self._asked_at
        asked_at = utc_now()
        self._ends = await usage_log.end_offsets()
        self._asked_at = asked_at

    def as_of(
        self, tenant_id: UUID, last_received_at: datetime | None, spread: int = 1
    ) -> datetime | None:
        """Everything of this tenant that came in before this moment is counted.

        Args:
            spread: over how many partitions its usage is spread. The newest counted event says something
                of its own partition only.
        """
        if spread > 1:
            found = [self._caught_up_at.get(partition) for partition in range(PARTITIONS)]
            known = [moment for moment in found if moment is not None]
            return min(known) if len(known) == PARTITIONS else None
        moments = [self._caught_up_at.get(usage_partition(tenant_id)), last_received_at]
        return max((moment for moment in moments if moment is not None), default=None)
