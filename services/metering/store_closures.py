"""SQL of closed periods and their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from libs.contracts.billing import UsagePeriodClosed
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode


@dataclass(frozen=True)
class DueClosure:
    """A closed period to be answered.

    Attributes:
        barrier: the end of each partition of `usage.events` that must be consumed first.
        self_customer_id: the customer that is the tenant itself.
        clock_offset: how far the tenant's business clock is ahead.
    """

    tenant_id: UUID
    mode: Mode
    id: UUID
    barrier: Mapping[int, int] | None
    self_customer_id: UUID
    clock_offset: timedelta


async def add_closure(tx: Tx, fact: UsagePeriodClosed) -> None:
    """Enter billing's request, once."""
    await tx.execute(
        """
        insert into closure (tenant_id, mode, id, subscription_id, customer_id, meters,
                             period_from, period_to, due_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        fact.closure_id,
        fact.subscription_id,
        fact.customer_id,
        list(fact.meters),
        fact.period_from,
        fact.period_to,
        fact.period_to + timedelta(seconds=fact.grace_seconds),
    )


async def list_due(database: Database, now: datetime, *, limit: int) -> list[DueClosure]:
    """Unsettled periods that are over in their tenants' business time, longest due first.

    What failed comes after all others. A tenant whose usage is parked waits.
    """
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            select c.tenant_id, c.mode, c.id, c.barrier, o.clock_offset,
                (d.snapshot ->> 'self_customer_id')::uuid as self_customer_id
            from closure c
            join directory d using (tenant_id)
            cross join lateral (select case when c.mode = 'test'
                then make_interval(secs => d.clock_offset_seconds)
                else make_interval() end as clock_offset) o
            where not c.settled and c.due_at <= $1::timestamptz + o.clock_offset
                and not exists (select from parked_key p
                    where p.topic = 'usage.events' and p.key = c.tenant_id::text)
            order by c.tried_at nulls first, c.due_at limit $2
            """,
            now,
            limit,
        )
    return [
        DueClosure(
            row["tenant_id"],
            row["mode"],
            row["id"],
            None if row["barrier"] is None else _read_offsets(row["barrier"]),
            row["self_customer_id"],
            row["clock_offset"],
        )
        for row in rows
    ]


def _read_offsets(stored: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in stored.items()}


async def set_barrier(
    database: Database, closures: Sequence[DueClosure], ends: Mapping[int, int]
) -> None:
    """What lies before these offsets belongs into the answers; set once per answer."""
    async with database.maintenance() as tx:
        await tx.execute(
            """
            update closure c set barrier = $3
            from unnest($1::uuid[], $2::uuid[]) as u(t, i)
            where c.tenant_id = t and c.id = i and c.barrier is null and not c.settled
            """,
            [closure.tenant_id for closure in closures],
            [closure.id for closure in closures],
            {str(partition): offset for partition, offset in ends.items()},
        )


async def put_off(tx: Tx, closure_id: UUID, at: datetime) -> None:
    """An answer failed: the others have their turn first."""
    await tx.execute(
        "update closure set tried_at = $4 where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        closure_id,
        at,
    )


async def usage_fences(database: Database) -> dict[int, int]:
    """How far `usage.events` has been consumed, by partition."""
    async with database.transaction() as tx:
        rows = await tx.fetch(
            "select partition, next_offset from fence where consumer = $1 and topic = $2",
            database.service,
            "usage.events",
        )
    return {row["partition"]: row["next_offset"] for row in rows}


async def lock_closure(tx: Tx, closure_id: UUID) -> Row | None:
    """The period, locked, unless it is settled."""
    return await tx.fetchrow(
        "select * from closure where tenant_id = $1 and mode = $2 and id = $3 and not settled "
        "for update",
        tx.tenant_id,
        tx.mode,
        closure_id,
    )


async def answers_of(tx: Tx, closure_id: UUID) -> dict[str, Row]:
    """The last answer per meter."""
    rows = await tx.fetch(
        "select meter, revision, quantity, event_count from closure_usage "
        "where tenant_id = $1 and mode = $2 and closure_id = $3",
        tx.tenant_id,
        tx.mode,
        closure_id,
    )
    return {row["meter"]: row for row in rows}


async def put_answer(
    tx: Tx, closure_id: UUID, meter: str, revision: int, quantity: Decimal, event_count: int
) -> None:
    """Keep the newest answer."""
    await tx.execute(
        """
        insert into closure_usage (tenant_id, mode, closure_id, meter, revision, quantity,
                                   event_count)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (tenant_id, mode, closure_id, meter) do update set
            revision = excluded.revision, quantity = excluded.quantity,
            event_count = excluded.event_count
        """,
        tx.tenant_id,
        tx.mode,
        closure_id,
        meter,
        revision,
        quantity,
        event_count,
    )


async def settle(tx: Tx, closure_id: UUID) -> None:
    """Everything counted so far is in the answers."""
    await tx.execute(
        "update closure set settled = true where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        closure_id,
    )


async def closures_over(
    tx: Tx, tenants: Sequence[UUID], first: datetime, last: datetime
) -> list[tuple[UUID, UUID, datetime, datetime]]:
    """Closed periods of these tenants that reach into an interval: tenant, id, from, to."""
    rows = await tx.fetch(
        """
        select tenant_id, id, period_from, period_to from closure
        where tenant_id = any($1::uuid[]) and mode = $2 and period_to > $3 and period_from <= $4
        """,
        list(tenants),
        tx.mode,
        first,
        last,
    )
    return [(row["tenant_id"], row["id"], row["period_from"], row["period_to"]) for row in rows]


async def unsettle(tx: Tx, closures: Sequence[tuple[UUID, UUID]]) -> None:
    """These closed periods have to be answered again.

    Every row is updated, also one that seems unsettled: an answer that is being given at this very
    moment holds its lock, and must not be the last.
    """
    ordered = sorted(closures)
    await tx.execute(
        """
        update closure c set settled = false, barrier = case when settled then null else barrier end
        from unnest($2::uuid[], $3::uuid[]) as u(t, i)
        where c.tenant_id = t and c.mode = $1 and c.id = i
        """,
        tx.mode,
        [tenant for tenant, _ in ordered],
        [closure for _, closure in ordered],
    )
