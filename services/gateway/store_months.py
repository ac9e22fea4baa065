"""SQL of the archive's months, which are its partitions."""

from datetime import datetime

from libs.db.pool import Tx


async def make_months(tx: Tx, first: datetime, months: int) -> int:
    """Make sure of a partition for each of so many months; the number that were made."""
    return int(await tx.fetchval("select make_archive_months($1, $2)", first, months))


async def drop_months(tx: Tx, cutoff: datetime) -> list[str]:
    """Drop every month that ended before; their names."""
    return list(await tx.fetchval("select drop_archive_months($1)", cutoff))


async def delete_rest(tx: Tx, cutoff: datetime, limit: int) -> int:
    """Delete older events that stand in no month of their own."""
    return await tx.execute(
        "delete from webhook_event where id in (select id from webhook_event "
        "where received_at < $1 limit $2) and received_at < $1",
        cutoff,
        limit,
    )
