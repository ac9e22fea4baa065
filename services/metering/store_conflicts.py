"""SQL of conflicts: their number by day, and the first of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from libs.db.pool import Row, Tx

Place = tuple[UUID, date, int]
"""Tenant, day it came in, partition."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """An event whose id had been taken with another content.

    Attributes:
        partition, offset: where it stands on `usage.events`.
        customer: as aggregates name it; empty is the tenant itself.
    """

    tenant_id: UUID
    partition: int
    offset: int
    received_at: datetime
    source: str
    event_id: str
    event_type: str
    customer: str

    @property
    def place(self) -> Place:
        """Under which count it goes."""
        return self.tenant_id, self.received_at.date(), self.partition


async def counts(tx: Tx, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """Where the counts stand: the number, and the offset up to which it reaches."""
    rows = await tx.fetch(
        """
        select d.tenant_id, d.received_day, d.partition, d.conflict_count, d.next_offset
        from usage_conflict_day d
        join unnest($2::uuid[], $3::date[], $4::integer[]) as u(t, day, p)
            on d.tenant_id = t and d.received_day = day and d.partition = p
        where d.mode = $1
        """,
        tx.mode,
        [tenant for tenant, _, _ in places],
        [day for _, day, _ in places],
        [partition for _, _, partition in places],
    )
    return {
        (row["tenant_id"], row["received_day"], row["partition"]): (
            row["conflict_count"],
            row["next_offset"],
        )
        for row in rows
    }


async def add(tx: Tx, totals: Mapping[Place, tuple[int, int]], kept: Sequence[Conflict]) -> None:
    """Count conflicts on, by place the number and the offset after the last, and keep some."""
    places = sorted(totals)
    await tx.execute(
        """
        insert into usage_conflict_day as d (tenant_id, mode, received_day, partition,
                                             conflict_count, next_offset)
        select t, $1, day, p, n, o
        from unnest($2::uuid[], $3::date[], $4::integer[], $5::bigint[], $6::bigint[])
            as u(t, day, p, n, o)
        on conflict (tenant_id, mode, received_day, partition) do update set
            conflict_count = d.conflict_count + excluded.conflict_count,
            next_offset = excluded.next_offset
        """,
        tx.mode,
        [tenant for tenant, _, _ in places],
        [day for _, day, _ in places],
        [partition for _, _, partition in places],
        [totals[place][0] for place in places],
        [totals[place][1] for place in places],
    )
    if not kept:
        return
    await tx.execute(
        """
        insert into usage_conflict (tenant_id, mode, received_day, partition, log_offset,
                                    received_at, source, event_id, event_type, customer)
        select t, $1, day, p, o, r, s, e, y, c
        from unnest($2::uuid[], $3::date[], $4::integer[], $5::bigint[], $6::timestamptz[],
                    $7::text[], $8::text[], $9::text[], $10::text[]) as u(t, day, p, o, r, s, e, y, c)
        """,
        tx.mode,
        [each.tenant_id for each in kept],
        [each.received_at.date() for each in kept],
        [each.partition for each in kept],
        [each.offset for each in kept],
        [each.received_at for each in kept],
        [each.source for each in kept],
        [each.event_id for each in kept],
        [each.event_type for each in kept],
        [each.customer for each in kept],
    )


async def page_of_conflicts(
    tx: Tx, *, before: tuple[datetime, int, int] | None, limit: int
) -> list[Row]:
    """The conflicts kept of the tenant in scope, newest first."""
    received_at, partition, offset = before or (None, None, None)
    return await tx.fetch(
        """
        select received_at, partition, log_offset, source, event_id, event_type, customer
        from usage_conflict
        where tenant_id = $1 and mode = $2 and ($3::timestamptz is null
            or (received_at, partition, log_offset) < ($3, $4::integer, $5::bigint))
        order by received_at desc, partition desc, log_offset desc limit $6
        """,
        tx.tenant_id,
        tx.mode,
        received_at,
        partition,
        offset,
        limit,
    )


async def total(tx: Tx) -> int:
    """How many conflicts the tenant in scope had, of the days that are kept."""
    counted: int = await tx.fetchval(
        "select coalesce(sum(conflict_count), 0)::bigint from usage_conflict_day "
        "where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
    )
    return counted


async def prune(tx: Tx, received_before: date, limit: int) -> None:
    """Forget what came in before a day, so many rows of each table at once."""
    await tx.execute(
        """
        delete from usage_conflict c using (
            select tenant_id, mode, received_day, partition, log_offset from usage_conflict
            where received_day < $1 limit $2
        ) old
        where c.tenant_id = old.tenant_id and c.mode = old.mode
            and c.received_day = old.received_day and c.partition = old.partition
            and c.log_offset = old.log_offset
        """,
        received_before,
        limit,
    )
    await tx.execute(
        """
        delete from usage_conflict_day c using (
            select tenant_id, mode, received_day, partition from usage_conflict_day
            where received_day < $1 limit $2
        ) old
        where c.tenant_id = old.tenant_id and c.mode = old.mode
            and c.received_day = old.received_day and c.partition = old.partition
        """,
        received_before,
        limit,
    )
