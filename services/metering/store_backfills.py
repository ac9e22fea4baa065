"""SQL of backfills and of the events that wait in them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode


@dataclass(frozen=True)
class Job:
    """A backfill to be worked on.

    Attributes:
        barrier: the end of each partition of `usage.events` when all was published.
    """

    tenant_id: UUID
    mode: Mode
    id: UUID
    state: str
    barrier: Mapping[int, int] | None


@dataclass(frozen=True)
class Waiting:
    """An event that waits in a backfill."""

    id_hash: bytes
    payload_hash: bytes
    source: str
    event_id: str
    value: bytes


async def add(tx: Tx, backfill_id: UUID, reason: str, actor: str, at: datetime) -> None:
    """Begin a backfill of the tenant in scope."""
    await tx.execute(
        """
        insert into usage_backfill (tenant_id, mode, id, reason, actor, created_at, worked_at)
        values ($1, $2, $3, $4, $5, $6, $6)
        """,
        tx.tenant_id,
        tx.mode,
        backfill_id,
        reason,
        actor,
        at,
    )


async def lock_and_count_open(tx: Tx) -> int:
    """How many backfills of the tenant in scope are not over; nobody begins another meanwhile."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))",
        f"backfills {tx.tenant_id} {tx.mode}",
    )
    counted: int = await tx.fetchval(
        "select count(*) from usage_backfill "
        "where tenant_id = $1 and mode = $2 and ended_at is null",
        tx.tenant_id,
        tx.mode,
    )
    return counted


async def find(tx: Tx, backfill_id: UUID) -> Row | None:
    """A backfill of the tenant in scope."""
    return await tx.fetchrow(
        "select * from usage_backfill where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        backfill_id,
    )


async def lock(tx: Tx, backfill_id: UUID) -> Row | None:
    """A backfill of the tenant in scope, for this transaction alone."""
    return await tx.fetchrow(
        "select * from usage_backfill where tenant_id = $1 and mode = $2 and id = $3 for update",
        tx.tenant_id,
        tx.mode,
        backfill_id,
    )


async def page(tx: Tx, *, before: UUID | None, limit: int) -> list[Row]:
    """The backfills of the tenant in scope, newest first."""
    return await tx.fetch(
        "select * from usage_backfill where tenant_id = $1 and mode = $2 "
        "and ($3::uuid is null or id < $3) order by id desc limit $4",
        tx.tenant_id,
        tx.mode,
        before,
        limit,
    )


async def payloads(tx: Tx, backfill_id: UUID, hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """Of these ids those that wait already, with what their events say."""
    rows = await tx.fetch(
        """
        select id_hash, payload_hash from usage_backfill_event
        where tenant_id = $1 and mode = $2 and backfill_id = $3 and id_hash = any($4::bytea[])
        """,
        tx.tenant_id,
        tx.mode,
        backfill_id,
        list(hashes),
    )
    return {row["id_hash"]: row["payload_hash"] for row in rows}


async def take_in(tx: Tx, backfill_id: UUID, events: Sequence[Waiting], at: datetime) -> None:
    """Let events wait in a backfill, none of which does."""
    await tx.execute(
        """
        insert into usage_backfill_event (tenant_id, mode, backfill_id, id_hash, payload_hash,
                                          source, event_id, value)
        select $1, $2, $3, h, p, s, i, v
        from unnest($4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::bytea[])
            as u(h, p, s, i, v)
        """,
        tx.tenant_id,
        tx.mode,
        backfill_id,
        [event.id_hash for event in events],
        [event.payload_hash for event in events],
        [event.source for event in events],
        [event.event_id for event in events],
        [event.value for event in events],
    )
    await tx.execute(
        "update usage_backfill set events = events + $4, worked_at = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        backfill_id,
        len(events),
        at,
    )


async def waiting(tx: Tx, backfill_id: UUID, *, limit: int, bytes_max: int) -> list[Waiting]:
    """The next events that wait: at least one, and no more than the bytes."""
    rows = await tx.fetch(
        """
        select id_hash, payload_hash, source, event_id, value
        from (
            select id_hash, payload_hash, source, event_id, value,
                row_number() over following as place,
                sum(octet_length(value)) over following as size_bytes
            from (
                select * from usage_backfill_event
                where tenant_id = $1 and mode = $2 and backfill_id = $3 order by id_hash limit $4
            ) next
            window following as (order by id_hash)
        ) page
        where place = 1 or size_bytes <= $5 order by id_hash
        """,
        tx.tenant_id,
        tx.mode,
        backfill_id,
        limit,
        bytes_max,
    )
    return [Waiting(*row) for row in rows]


async def names(tx: Tx, backfill_id: UUID) -> list[tuple[str, str]]:
    """Source and id of every event that waits."""
    rows = await tx.fetch(
        "select source, event_id from usage_backfill_event "
        "where tenant_id = $1 and mode = $2 and backfill_id = $3",
        tx.tenant_id,
        tx.mode,
        backfill_id,
    )
    return [(row["source"], row["event_id"]) for row in rows]


async def let_go(
    tx: Tx, job: Job, hashes: Collection[bytes], at: datetime, *, known: bool = False
) -> None:
    """Events wait no more: they are published, or were known before."""
    gone = await tx.execute(
        """
        delete from usage_backfill_event where tenant_id = $1 and mode = $2 and backfill_id = $3
            and id_hash = any($4::bytea[])
        """,
        job.tenant_id,
        job.mode,
        job.id,
        list(hashes),
    )
    await tx.execute(
        """
        update usage_backfill set worked_at = $4, known = known + case when $6 then $5::integer else 0 end,
            published = published + case when $6 then 0 else $5::integer end
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        job.tenant_id,
        job.mode,
        job.id,
        at,
        gone,
        known,
    )


async def move(
    tx: Tx,
    backfill_id: UUID,
    state: str,
    at: datetime,
    *,
    barrier: Mapping[int, int] | None = None,
    is_over: bool = False,
) -> None:
    """A backfill goes on to another state."""
    offsets = None if barrier is None else {str(place): end for place, end in barrier.items()}
    await tx.execute(
        """
        update usage_backfill set state = $4, worked_at = $5::timestamptz,
            barrier = coalesce($6, barrier),
            ended_at = case when $7 then $5::timestamptz end
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        backfill_id,
        state,
        at,
        offsets,
        is_over,
    )


async def note_compared(tx: Tx, backfill_id: UUID, *, whole: bool) -> None:
    """Whether all that was counted could be compared with."""
    await tx.execute(
        "update usage_backfill set archive_complete = $4 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        backfill_id,
        whole,
    )


async def put_behind(tx: Tx, backfill_id: UUID, at: datetime) -> None:
    """A backfill that was worked on comes after those that were not since."""
    await tx.execute(
        "update usage_backfill set worked_at = $4 "
        "where tenant_id = $1 and mode = $2 and id = $3 and ended_at is null",
        tx.tenant_id,
        tx.mode,
        backfill_id,
        at,
    )


async def drop_events(tx: Tx, backfill_id: UUID) -> None:
    """What waits in a backfill is thrown away."""
    await tx.execute(
        "delete from usage_backfill_event where tenant_id = $1 and mode = $2 and backfill_id = $3",
        tx.tenant_id,
        tx.mode,
        backfill_id,
    )


async def list_due(database: Database, left_before: datetime, *, limit: int) -> list[Job]:
    """Backfills to be worked on, and those that nobody has gone on with since `left_before`.

    Tenants in turns, each with what was not worked on for longest.
    """
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            select tenant_id, mode, id, state, barrier
            from (
                select *, row_number() over (partition by tenant_id order by worked_at) as turn,
                    max(worked_at) over (partition by tenant_id) as served_at
                from usage_backfill where ended_at is null and (state <> 'open' or worked_at < $1)
            ) due
            order by turn, served_at limit $2
            """,
            left_before,
            limit,
        )
    return [
        Job(
            row["tenant_id"],
            row["mode"],
            row["id"],
            row["state"],
            None
            if row["barrier"] is None
            else {int(place): end for place, end in row["barrier"].items()},
        )
        for row in rows
    ]
