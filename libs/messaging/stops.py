"""A consumer that stopped itself: remembered beyond restarts, lifted by an operator or new code."""

from libs.db.pool import Database, Tx
from libs.messaging.dead_letter import printable


async def remember(database: Database, consumer: str, detail: str, code_version: str) -> None:
    """Keep that this code stopped, and on what."""
    async with database.transaction() as tx:
        await tx.execute(
            """
            insert into consumer_stop (consumer, reason, detail, code_version)
            values ($1, 'five permanent failures in a row', $2, $3)
            on conflict (consumer) do update set detail = excluded.detail,
                code_version = excluded.code_version, stopped_at = now()
            """,
            consumer,
            printable(detail)[:2000],
            code_version,
        )


async def standing(database: Database, consumer: str, code_version: str) -> str | None:
    """What this very code stopped on, or None: it never did, or was lifted."""
    async with database.transaction() as tx:
        detail: str | None = await tx.fetchval(
            "select detail from consumer_stop where consumer = $1 and code_version = $2",
            consumer,
            code_version,
        )
    return detail


async def forget(tx: Tx, consumer: str) -> bool:
    """Let a stopped consumer try again; False when it was not stopped."""
    return bool(await tx.execute("delete from consumer_stop where consumer = $1", consumer))
