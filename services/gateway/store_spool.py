"""SQL of the spool, which is the part of the outbox that is not sent yet."""

from typing import NamedTuple
from uuid import UUID

from libs.db.pool import Tx


class Unsent(NamedTuple):
    """So many events, and so much room that their bodies take on the disk."""

    events: int
    bytes: int

    def reaches(self, limit: "Unsent") -> bool:
        """Whether there are as many events as the limit, or as many bytes."""
        return self.events >= limit.events or self.bytes >= limit.bytes


async def count_unsent(tx: Tx, limit: int) -> int:
    """How many events wait to be sent to Kafka, as far as `limit`."""
    return int(
        await tx.fetchval(
            "select count(*) from (select from outbox where sent_at is null limit $1) as unsent",
            limit,
        )
    )


async def find_unsent(tx: Tx, limit: int) -> dict[UUID, Unsent]:
    """What waits to be sent to Kafka, by tenant, as far as `limit` events.

    A body that stands beside its row is not read: the row knows how long it is.
    """
    rows = await tx.fetch(
        """
        select tenant_id, count(*) as events, sum(pg_column_size(payload)) as bytes
        from (select tenant_id, payload from outbox where sent_at is null limit $1) as unsent
        group by tenant_id
        """,
        limit,
    )
    return {row["tenant_id"]: Unsent(row["events"], int(row["bytes"])) for row in rows}
