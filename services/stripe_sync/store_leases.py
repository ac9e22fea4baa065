"""SQL of leases."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Tx


async def take(tx: Tx, name: str, token: UUID, now: datetime, until: datetime) -> bool:
    """Take a lease that is free or run out."""
    return (
        await tx.execute(
            """
            insert into lease as l (name, token, held_until) values ($1, $2, $4)
            on conflict (name) do update set token = excluded.token,
                held_until = excluded.held_until
            where l.held_until < $3
            """,
            name,
            token,
            now,
            until,
        )
        == 1
    )


async def prolong(tx: Tx, name: str, token: UUID, until: datetime) -> bool:
    """Prolong a lease of ours; False where another has taken it, though it gave it back since."""
    return (
        await tx.execute(
            "update lease set held_until = $3 where name = $1 and token = $2", name, token, until
        )
        == 1
    )


async def lock(tx: Tx, name: str, token: UUID) -> bool:
    """Share-lock a lease of ours; False where it is another's."""
    return bool(
        await tx.fetchval(
            "select true from lease where name = $1 and token = $2 for share", name, token
        )
    )


async def release(tx: Tx, name: str, token: UUID) -> None:
    """Give a lease back."""
    await tx.execute("delete from lease where name = $1 and token = $2", name, token)
