"""SQL of key rotations: which are open, what they have told, and who holds what."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


async def insert_rotation(
    tx: Tx, rotation_id: UUID, kind: str, requested_by: str, at: datetime
) -> Row | None:
    """Begin a rotation; None where one of this kind is under way."""
    return await tx.fetchrow(
        "insert into key_rotation (tenant_id, rotation_id, kind, state, requested_by, started_at) "
        "values ($1, $2, $3, 'sealing', $4, $5) on conflict do nothing returning *",
        tx.tenant_id,
        rotation_id,
        kind,
        requested_by,
        at,
    )


async def find_rotation(tx: Tx, rotation_id: UUID) -> Row | None:
    """A rotation by its id; for the maintenance role."""
    return await tx.fetchrow("select * from key_rotation where rotation_id = $1", rotation_id)


async def list_rotations(tx: Tx, before: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """Rotations, the newest first; for the maintenance role."""
    at, rotation_id = before or (None, None)
    return await tx.fetch(
        "select * from key_rotation "
        "where $1::timestamptz is null or (started_at, rotation_id) < ($1, $2::uuid) "
        "order by started_at desc, rotation_id desc limit $3",
        at,
        rotation_id,
        limit,
    )


async def oldest_open(tx: Tx) -> dict[str, datetime]:
    """When the oldest open rotation of each kind began; for the maintenance role."""
    rows = await tx.fetch(
        "select kind, min(started_at) as started_at from key_rotation "
        "where finished_at is null group by kind"
    )
    return {row["kind"]: row["started_at"] for row in rows}


async def take_turns(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Rotations with work to do now, those whose last turn is longest ago; for the maintenance role.

    Each goes to the end of the row, so that those which wait for others keep nobody from a turn.
    """
    return await tx.fetch(
        """
        with due as (
            select tenant_id, rotation_id from key_rotation
            where finished_at is null and (retry_at is null or retry_at <= $1)
            order by coalesce(turn_at, started_at), rotation_id limit $2
        )
        update key_rotation r set turn_at = $1 from due
        where r.tenant_id = due.tenant_id and r.rotation_id = due.rotation_id
          and r.finished_at is null
        returning r.*
        """,
        now,
        limit,
    )


async def set_state(tx: Tx, rotation_id: UUID, state: str, at: datetime) -> bool:
    """Take the next step; `done` ends the rotation. False where another process did."""
    changed = await tx.execute(
        "update key_rotation set state = $3, failure = null, retry_at = null, "
        "finished_at = case when $3 = 'done' then $4::timestamptz end "
        "where tenant_id = $1 and rotation_id = $2 and finished_at is null and state <> $3",
        tx.tenant_id,
        rotation_id,
        state,
        at,
    )
    return changed == 1


async def set_newest_id(tx: Tx, rotation_id: UUID, newest_id: str) -> None:
    """Note the master key that all data keys are to be under."""
    await tx.execute(
        "update key_rotation set newest_id = $3 where tenant_id = $1 and rotation_id = $2",
        tx.tenant_id,
        rotation_id,
        newest_id,
    )


async def note_failure(tx: Tx, rotation_id: UUID, failure: str, retry_at: datetime) -> None:
    """Note why a rotation does not get on, and when it is tried again."""
    await tx.execute(
        "update key_rotation set failure = $3, retry_at = $4 "
        "where tenant_id = $1 and rotation_id = $2",
        tx.tenant_id,
        rotation_id,
        failure,
        retry_at,
    )


async def add_done(tx: Tx, rotation_id: UUID, count: int) -> None:
    """Count what was sealed anew."""
    await tx.execute(
        "update key_rotation set done_count = done_count + $3 "
        "where tenant_id = $1 and rotation_id = $2",
        tx.tenant_id,
        rotation_id,
        count,
    )


async def has_secrets(tx: Tx) -> bool:
    """Whether secrets of the tenant in scope have ever been told."""
    return bool(
        await tx.fetchval(
            "select exists (select from secrets_version where tenant_id = $1)", tx.tenant_id
        )
    )


async def note_told(tx: Tx, rotation_id: UUID, version: int) -> None:
    """Note the version that every holder must have of the tenant in scope."""
    await tx.execute(
        "insert into key_rotation_told (tenant_id, rotation_id, secrets_version) values ($1, $2, $3) "
        "on conflict (tenant_id, rotation_id) do update set secrets_version = "
        "greatest(key_rotation_told.secrets_version, excluded.secrets_version)",
        tx.tenant_id,
        rotation_id,
        version,
    )


async def note_holder(tx: Tx, service: str, version: int) -> None:
    """Note what a service holds of the tenant in scope; only a higher version."""
    await tx.execute(
        "insert into secrets_holder as h (tenant_id, service, version) values ($1, $2, $3) "
        "on conflict (tenant_id, service) do update set version = excluded.version "
        "where h.version < excluded.version",
        tx.tenant_id,
        service,
        version,
    )


async def count_waiting(tx: Tx, rotation_id: UUID, holders: Sequence[str]) -> int:
    """Of how many tenants some holder does not have what was told; for the maintenance role."""
    return int(
        await tx.fetchval(
            """
            select count(*) from key_rotation_told t where t.rotation_id = $1 and exists (
                select from unnest($2::text[]) as wanted (service) where not exists (
                    select from secrets_holder h
                    where h.tenant_id = t.tenant_id and h.service = wanted.service
                      and h.version >= t.secrets_version))
            """,
            rotation_id,
            list(holders),
        )
    )
