"""SQL of marked customers, the periods they were in, and what they were told of their limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from libs.contracts.billing import SubscriptionChanged
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode

Line = tuple[UUID, str]
"""Tenant, and a customer as aggregates name it."""


@dataclass(frozen=True)
class Mark:
    """A customer whose usage is to be held against its limits again.

    Attributes:
        customer: as aggregates name it; empty is the tenant itself.
        marks: what the job saw; more by now means that more was counted since.
        since, until: the times of the usage that was counted.
    """

    tenant_id: UUID
    mode: Mode
    customer: str
    marks: int
    since: datetime
    until: datetime


async def mark(tx: Tx, lines: Mapping[Line, tuple[UUID | None, datetime, datetime]]) -> None:
    """Mark customers for the times of what they used, in an order in which nobody deadlocks.

    Args:
        lines: the customer's id, None for the tenant itself, and the first and last time. A
            customer that billing knows no subscription of has no limits and is left out.
    """
    places = sorted(lines)
    await tx.execute(
        """
        insert into limit_mark as m (tenant_id, mode, customer, since, until)
        select t, $1, c, first_at, last_at
        from unnest($2::uuid[], $3::text[], $4::uuid[], $5::timestamptz[], $6::timestamptz[])
            as u(t, c, i, first_at, last_at)
        where i is null or exists (select from subscription s
            where s.tenant_id = t and s.mode = $1 and s.customer_id = i)
        on conflict (tenant_id, mode, customer) do update set
            marks = m.marks + 1, since = least(m.since, excluded.since),
            until = greatest(m.until, excluded.until)
        """,
        tx.mode,
        [tenant for tenant, _ in places],
        [customer for _, customer in places],
        [lines[place][0] for place in places],
        [lines[place][1] for place in places],
        [lines[place][2] for place in places],
    )


async def list_marks(database: Database, *, limit: int) -> list[Mark]:
    """Marks in turn: the oldest of each tenant before the second of any."""
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            select tenant_id, mode, customer, marks, since, until from (
                select m.*, row_number() over (partition by tenant_id, mode order by position)
                    as turn
                from limit_mark m
            ) ranked order by turn, position limit $1
            """,
            limit,
        )
    return [Mark(*row) for row in rows]


async def remove(tx: Tx, seen: Mark) -> None:
    """Take a mark away, unless more was counted since it was read."""
    await tx.execute(
        "delete from limit_mark where tenant_id = $1 and mode = $2 and customer = $3 and marks = $4",
        seen.tenant_id,
        seen.mode,
        seen.customer,
        seen.marks,
    )


async def put_back(tx: Tx, seen: Mark) -> None:
    """Look at it again after all others."""
    await tx.execute(
        "update limit_mark set position = default "
        "where tenant_id = $1 and mode = $2 and customer = $3",
        seen.tenant_id,
        seen.mode,
        seen.customer,
    )


async def put_period(tx: Tx, fact: SubscriptionChanged) -> bool:
    """Keep the period a subscription is in; False where a newer version was there."""
    changed = await tx.execute(
        """
        insert into subscription_period as p (tenant_id, mode, subscription_id, period_from,
            period_to, version, customer_id, billed_by, plan_version_id, status)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (tenant_id, mode, subscription_id, period_from) do update set
            period_to = excluded.period_to, version = excluded.version,
            customer_id = excluded.customer_id, billed_by = excluded.billed_by,
            plan_version_id = excluded.plan_version_id, status = excluded.status
        where p.version < excluded.version
        """,
        tx.tenant_id,
        tx.mode,
        fact.subscription_id,
        fact.period_from,
        fact.period_to,
        fact.version,
        fact.customer_id,
        fact.billed_by,
        fact.plan_version_id,
        fact.status,
    )
    if changed:
        await _cut_periods(tx, fact.subscription_id)
    return bool(changed)


async def _cut_periods(tx: Tx, subscription_id: UUID) -> None:
    """A period ends where a later version of its subscription begins another.

    So after a change in the middle of a period no use is held against both.
    """
    await tx.execute(
        """
        update subscription_period p set period_to = cut.at
        from (
            select f.period_from, min(l.period_from) as at
            from subscription_period f join subscription_period l
                on l.tenant_id = f.tenant_id and l.mode = f.mode
                and l.subscription_id = f.subscription_id
                and l.version > f.version and l.period_from > f.period_from
            where f.tenant_id = $1 and f.mode = $2 and f.subscription_id = $3
            group by f.period_from
        ) cut
        where p.tenant_id = $1 and p.mode = $2 and p.subscription_id = $3
            and p.period_from = cut.period_from and p.period_to > cut.at
        """,
        tx.tenant_id,
        tx.mode,
        subscription_id,
    )


async def periods_over(
    tx: Tx, customer_id: UUID, since: datetime, until: datetime, *, limit: int
) -> list[Row]:
    """The periods of a customer's subscriptions that reach into a time, newest first."""
    return await tx.fetch(
        """
        select subscription_id, billed_by, plan_version_id, period_from, period_to
        from subscription_period
        where tenant_id = $1 and mode = $2 and customer_id = $3 and period_to > $4
            and period_from <= $5 and status <> 'canceled'
        order by period_from desc, subscription_id limit $6
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        since,
        until,
        limit,
    )


async def without_period(tx: Tx, customer_id: UUID) -> list[Row]:
    """A customer's subscriptions that have no period: on free plans."""
    return await tx.fetch(
        """
        select id as subscription_id, billed_by, plan_version_id from subscription
        where tenant_id = $1 and mode = $2 and customer_id = $3 and period_from is null
            and status <> 'canceled'
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def enter_crossings(
    tx: Tx,
    customer_id: UUID,
    meter: str,
    period_from: datetime,
    limit_amount: Decimal,
    percents: Sequence[int],
    used: Decimal,
    at: datetime,
) -> list[int]:
    """Enter reached thresholds; those that were not there, ascending."""
    rows = await tx.fetch(
        """
        insert into limit_crossing (tenant_id, mode, customer_id, meter, period_from,
                                    limit_amount, percent, used, crossed_at)
        select $1, $2, $3, $4, $5, $6, p, $8, $9 from unnest($7::integer[]) as u(p)
        on conflict do nothing returning percent
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        meter,
        period_from,
        limit_amount,
        sorted(percents),
        used,
        at,
    )
    return sorted(row["percent"] for row in rows)


async def enter_overrun(tx: Tx, overrun: Mapping[str, object]) -> bool:
    """Flag usage beyond a limit; False where it was flagged."""
    entered = await tx.execute(
        """
        insert into limit_overrun (tenant_id, mode, customer_id, meter, period_from, limit_amount,
                                   id, meter_id, subscription_id, period_to, kind, exceeded_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        overrun["customer_id"],
        overrun["meter"],
        overrun["period_from"],
        overrun["limit_amount"],
        overrun["id"],
        overrun["meter_id"],
        overrun["subscription_id"],
        overrun["period_to"],
        overrun["kind"],
        overrun["exceeded_at"],
    )
    return bool(entered)


async def page_of_overruns(
    tx: Tx,
    *,
    customer_id: UUID | None,
    meter: str | None,
    before: UUID | None,
    limit: int,
) -> list[Row]:
    """Flagged usage of the tenant in scope before an id, newest first."""
    return await tx.fetch(
        """
        select * from limit_overrun
        where tenant_id = $1 and mode = $2 and ($3::uuid is null or customer_id = $3)
            and ($4::text is null or meter = $4) and ($5::uuid is null or id < $5)
        order by id desc limit $6
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        meter,
        before,
        limit,
    )
