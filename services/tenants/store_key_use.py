"""SQL of when keys and secrets were used."""

from libs.contracts.audit import KeyUsed
from libs.db.pool import Row, Tx


async def keep_use(tx: Tx, fact: KeyUsed) -> None:
    """Keep a later use of a key by a service."""
    await tx.execute(
        """
        insert into key_use as u (tenant_id, mode, kind, object_id, version, service, used_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (tenant_id, mode, kind, object_id, version, service)
            do update set used_at = excluded.used_at where u.used_at < excluded.used_at
        """,
        tx.tenant_id,
        tx.mode,
        fact.kind,
        fact.object_id,
        fact.version,
        fact.service,
        fact.used_at,
    )


async def last_uses(tx: Tx, kind: str, object_id: str) -> list[Row]:
    """The last use of each version by any service, the newest version first."""
    return await tx.fetch(
        "select mode, version, max(used_at) as used_at from key_use "
        "where tenant_id = $1 and kind = $2 and object_id = $3 "
        "group by mode, version order by version desc, mode",
        tx.tenant_id,
        kind,
        object_id,
    )
