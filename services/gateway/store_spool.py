"""SQL of the spool, which is the part of the outbox that is not sent yet."""

from libs.db.pool import Tx


async def count_unsent(tx: Tx, limit: int) -> int:
    """How many events wait to be sent to Kafka, as far as `limit`."""
    return int(
        await tx.fetchval(
            "select count(*) from (select from outbox where sent_at is null limit $1) as unsent",
            limit,
        )
    )
