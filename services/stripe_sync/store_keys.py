"""SQL of burnt idempotency keys."""

from libs.db.pool import Tx


async def times_burnt(tx: Tx, key: str) -> int:
    """How often Stripe answered this key with an error of its own."""
    return int(
        await tx.fetchval(
            "select times from burnt_key where tenant_id = $1 and mode = $2 and key = $3",
            tx.tenant_id,
            tx.mode,
            key,
        )
        or 0
    )


async def burn(tx: Tx, key: str, seen: int) -> None:
    """Never use the key in its present form again; twins that saw the same burn it once."""
    await tx.execute(
        """
        insert into burnt_key as b (tenant_id, mode, key, times) values ($1, $2, $3, 1)
        on conflict (tenant_id, mode, key) do update set times = b.times + 1 where b.times = $4
        """,
        tx.tenant_id,
        tx.mode,
        key,
        seen,
    )
