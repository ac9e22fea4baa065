"""SQL of producers that publish usage straight to the topic, and of what was refused there."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope


async def add(
    tx: Tx, producer_id: UUID, name: str, actor: str, at: datetime, expires_at: datetime
) -> None:
    """Enter a producer of the tenant in scope; of the platform's it is one for all tenants."""
    await tx.execute(
        """
        insert into usage_producer (tenant_id, mode, id, name, created_by, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        """,
        tx.tenant_id,
        tx.mode,
        producer_id,
        name,
        actor,
        at,
        expires_at,
    )


async def find(tx: Tx, producer_id: UUID) -> Row | None:
    """A producer of the tenant in scope, locked."""
    return await tx.fetchrow(
        "select tenant_id, mode, id, name, created_by, created_at, expires_at, revoked_at "
        "from usage_producer where tenant_id = $1 and mode = $2 and id = $3 for update",
        tx.tenant_id,
        tx.mode,
        producer_id,
    )


async def page(tx: Tx, *, after: UUID | None, limit: int) -> list[Row]:
    """Producers of the tenant in scope, oldest first."""
    return await tx.fetch(
        "select tenant_id, mode, id, name, created_by, created_at, expires_at, revoked_at "
        "from usage_producer where tenant_id = $1 and mode = $2 and ($3::uuid is null or id > $3) "
        "order by id limit $4",
        tx.tenant_id,
        tx.mode,
        after,
        limit,
    )


async def revoke(tx: Tx, producer_id: UUID, at: datetime) -> None:
    """A producer's records that come in from `at` on are refused."""
    await tx.execute(
        "update usage_producer set revoked_at = $4 "
        "where tenant_id = $1 and mode = $2 and id = $3 and revoked_at is null",
        tx.tenant_id,
        tx.mode,
        producer_id,
        at,
    )


async def revoked(
    tx: Tx, mode: Mode, owners: Collection[UUID], producers: Collection[UUID]
) -> dict[UUID, datetime]:
    """Of these producers those that were revoked, and from when on."""
    await tx.enter(Scope(tuple(sorted(owners)), mode))
    rows = await tx.fetch(
        "select id, revoked_at from usage_producer where tenant_id = any($1::uuid[]) "
        "and mode = $2 and id = any($3::uuid[]) and revoked_at is not null",
        sorted(owners),
        mode,
        sorted(producers),
    )
    return {row["id"]: row["revoked_at"] for row in rows}


async def enter_refusals(
    tx: Tx, mode: Mode, refusals: Mapping[tuple[date, str, str], str]
) -> Sequence[tuple[date, str, str]]:
    """Enter what was refused by day, producer and reason; those that had not been yet.

    Args:
        refusals: with the first record that it happened to.
    """
    await tx.enter(Scope((PLATFORM_TENANT_ID,), mode))
    places = sorted(refusals)
    rows = await tx.fetch(
        """
        insert into usage_refusal (tenant_id, mode, received_day, producer, reason, record)
        select $1, $2, d, p, r, f
        from unnest($3::date[], $4::text[], $5::text[], $6::text[]) as u(d, p, r, f)
        on conflict do nothing returning received_day, producer, reason
        """,
        PLATFORM_TENANT_ID,
        mode,
        [day for day, _, _ in places],
        [producer for _, producer, _ in places],
        [reason for _, _, reason in places],
        [refusals[place] for place in places],
    )
    return [(row["received_day"], row["producer"], row["reason"]) for row in rows]


async def prune_refusals(database: Database, received_before: date, *, limit: int) -> int:
    """Forget refusals of days whose records are gone from the topic."""
    async with database.maintenance() as tx:
        return await tx.execute(
            """
            delete from usage_refusal r using (
                select tenant_id, mode, received_day, producer, reason from usage_refusal
                where received_day < $1 limit $2
            ) old
            where r.tenant_id = old.tenant_id and r.mode = old.mode
                and r.received_day = old.received_day and r.producer = old.producer
                and r.reason = old.reason
            """,
            received_before,
            limit,
        )
