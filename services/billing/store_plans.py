"""SQL of the catalog: plans, versions, meters. The biller's tenant must be in scope."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx


async def add_plan(tx: Tx, plan_id: UUID, key: str, at: datetime) -> None:
    """Enter a plan; one whose key exists stays as it is."""
    await tx.execute(
        "insert into plan (tenant_id, mode, id, key, created_at) values ($1, $2, $3, $4, $5) "
        "on conflict (tenant_id, mode, key) do nothing",
        tx.tenant_id,
        tx.mode,
        plan_id,
        key,
        at,
    )


async def lock_plan(tx: Tx, key: str) -> UUID:
    """The id of a plan that exists, locked so that versions are numbered one after another."""
    found: UUID = await tx.fetchval(
        "select id from plan where tenant_id = $1 and mode = $2 and key = $3 for update",
        tx.tenant_id,
        tx.mode,
        key,
    )
    return found


async def latest_version(tx: Tx, plan_id: UUID) -> Row | None:
    """The newest version of a plan: version, content_hash, fact, published_at."""
    return await tx.fetchrow(
        "select version, content_hash, fact, published_at from plan_version "
        "where tenant_id = $1 and mode = $2 and plan_id = $3 order by version desc limit 1",
        tx.tenant_id,
        tx.mode,
        plan_id,
    )


async def add_version(
    tx: Tx, fact: dict[str, Any], content_hash: bytes, published_at: datetime
) -> None:
    """Enter a published version with its complete fact."""
    await tx.execute(
        "insert into plan_version "
        "(tenant_id, mode, id, plan_id, version, content_hash, fact, published_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8)",
        tx.tenant_id,
        tx.mode,
        UUID(fact["plan_version_id"]),
        UUID(fact["plan_id"]),
        fact["version"],
        content_hash,
        fact,
        published_at,
    )


async def find_version(tx: Tx, billers: Sequence[UUID], version_id: UUID) -> Row | None:
    """A version by its id, of one of these billers."""
    return await tx.fetchrow(
        "select fact from plan_version where tenant_id = any($1::uuid[]) and mode = $2 and id = $3",
        list(billers),
        tx.mode,
        version_id,
    )


async def list_latest(tx: Tx, *, after: UUID | None, limit: int) -> list[Row]:
    """Each plan's newest version, by the plan's id."""
    return await tx.fetch(
        """
        select p.id, v.fact, v.published_at from plan p
        cross join lateral (
            select fact, published_at from plan_version v
            where v.tenant_id = p.tenant_id and v.mode = p.mode and v.plan_id = p.id
            order by version desc limit 1) v
        where p.tenant_id = $1 and p.mode = $2 and ($3::uuid is null or p.id > $3)
        order by p.id limit $4
        """,
        tx.tenant_id,
        tx.mode,
        after,
        limit,
    )


async def find_plan_id(tx: Tx, key: str) -> UUID | None:
    """The id of the plan with this key."""
    found: UUID | None = await tx.fetchval(
        "select id from plan where tenant_id = $1 and mode = $2 and key = $3",
        tx.tenant_id,
        tx.mode,
        key,
    )
    return found


async def add_meter(tx: Tx, key: str, meter_id: UUID) -> None:
    """Remember that a meter exists."""
    await tx.execute(
        "insert into meter (tenant_id, mode, key, meter_id) values ($1, $2, $3, $4) "
        "on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        key,
        meter_id,
    )


async def known_meters(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that are meters."""
    rows = await tx.fetch(
        "select key from meter where tenant_id = $1 and mode = $2 and key = any($3::text[])",
        tx.tenant_id,
        tx.mode,
        list(keys),
    )
    return {row["key"] for row in rows}
