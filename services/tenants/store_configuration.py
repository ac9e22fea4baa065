"""SQL of tenants' configuration: versions are added, never changed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from libs.db.pool import Row, Tx


async def read_current(tx: Tx) -> list[Row]:
    """The highest version of each namespace of the tenant in scope."""
    return await tx.fetch(
        "select distinct on (namespace) namespace, version, content, changed_by, changed_at "
        "from tenant_config where tenant_id = $1 order by namespace, version desc",
        tx.tenant_id,
    )


async def find_current(tx: Tx, namespace: str) -> Row | None:
    """The highest version of a namespace."""
    return await tx.fetchrow(
        "select namespace, version, content, changed_by, changed_at from tenant_config "
        "where tenant_id = $1 and namespace = $2 order by version desc limit 1",
        tx.tenant_id,
        namespace,
    )


async def list_versions(tx: Tx, namespace: str, before: int | None, limit: int) -> list[Row]:
    """Versions of a namespace, the newest first."""
    return await tx.fetch(
        "select namespace, version, content, changed_by, changed_at from tenant_config "
        "where tenant_id = $1 and namespace = $2 and ($3::integer is null or version < $3) "
        "order by version desc limit $4",
        tx.tenant_id,
        namespace,
        before,
        limit,
    )


async def insert_version(
    tx: Tx, namespace: str, version: int, content: Mapping[str, Any], actor: str, at: datetime
) -> None:
    """Add the next version of a namespace."""
    await tx.execute(
        "insert into tenant_config (tenant_id, namespace, version, content, changed_by, "
        "changed_at) values ($1, $2, $3, $4, $5, $6)",
        tx.tenant_id,
        namespace,
        version,
        content,
        actor,
        at,
    )
