"""SQL of secrets on their way into a store outside, noted before they are written there."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


async def begin(tx: Tx, secret_id: UUID, at: datetime) -> None:
    """Note that a secret of the tenant in scope is about to be written outside."""
    await tx.execute(
        "insert into secret_intent (tenant_id, secret_id, begun_at) values ($1, $2, $3)",
        tx.tenant_id,
        secret_id,
        at,
    )


async def end(tx: Tx, secret_id: UUID) -> bool:
    """The secret is entered in this very transaction; False where it is being deleted outside."""
    ended = await tx.execute(
        "delete from secret_intent where tenant_id = $1 and secret_id = $2 and doomed_at is null",
        tx.tenant_id,
        secret_id,
    )
    return ended == 1


async def doom(tx: Tx, secret_id: UUID, at: datetime) -> bool:
    """From now on nobody enters the secret; False where it was entered."""
    doomed = await tx.execute(
        "update secret_intent set doomed_at = $3 where tenant_id = $1 and secret_id = $2",
        tx.tenant_id,
        secret_id,
        at,
    )
    return doomed == 1


async def forget(tx: Tx, secret_id: UUID) -> None:
    """The secret is gone from the store outside."""
    await tx.execute(
        "delete from secret_intent where tenant_id = $1 and secret_id = $2", tx.tenant_id, secret_id
    )


async def left_over(tx: Tx, before: datetime, limit: int) -> list[Row]:
    """Secrets begun before this that nobody entered; for the maintenance role.

    Those that were tried longest ago come first.
    """
    return await tx.fetch(
        "select tenant_id, secret_id from secret_intent where begun_at < $1 "
        "order by coalesce(doomed_at, begun_at), secret_id limit $2",
        before,
        limit,
    )
