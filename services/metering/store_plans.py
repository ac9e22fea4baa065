"""SQL of what billing said about plans and who is on them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from libs.contracts.billing import CreditLimitSet, PlanPublished, SubscriptionChanged
from libs.db import arrays
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode


async def add_plan_version(tx: Tx, fact: PlanPublished) -> None:
    """Keep a version, which never changes, and which meters it limits."""
    await tx.execute(
        """
        insert into plan_version (tenant_id, mode, id, key, name, limits)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        fact.plan_version_id,
        fact.key,
        fact.name,
        [limit.model_dump(mode="json") for limit in fact.limits],
    )
    if fact.limits:
        await tx.execute(
            """
            insert into limited_meter (tenant_id, mode, meter)
            select $1, $2, m from unnest($3::text[]) as u(m) on conflict do nothing
            """,
            tx.tenant_id,
            tx.mode,
            sorted({limit.meter for limit in fact.limits}),
        )


async def put_subscription(tx: Tx, fact: SubscriptionChanged) -> bool:
    """Replace a subscription's state by a newer one; False where there was a newer one."""
    changed = await tx.execute(
        """
        insert into subscription as s (tenant_id, mode, id, version, customer_id, billed_by,
            plan_key, plan_version_id, status, period_from, period_to)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (tenant_id, mode, id) do update set
            version = excluded.version, customer_id = excluded.customer_id,
            billed_by = excluded.billed_by, plan_key = excluded.plan_key,
            plan_version_id = excluded.plan_version_id, status = excluded.status,
            period_from = excluded.period_from, period_to = excluded.period_to
        where s.version < excluded.version
        """,
        tx.tenant_id,
        tx.mode,
        fact.subscription_id,
        fact.version,
        fact.customer_id,
        fact.billed_by,
        fact.plan_key,
        fact.plan_version_id,
        fact.status,
        fact.period_from,
        fact.period_to,
    )
    return bool(changed)


async def put_credit_limit(tx: Tx, fact: CreditLimitSet) -> None:
    """Replace what a customer's credit pays for by what was told later."""
    await tx.execute(
        """
        insert into credit_limit as c (tenant_id, mode, customer_id, meter, version, billed_by,
            since, amount)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (tenant_id, mode, customer_id, meter) do update set
            version = excluded.version, billed_by = excluded.billed_by, since = excluded.since,
            amount = excluded.amount
        where c.version < excluded.version
        """,
        tx.tenant_id,
        tx.mode,
        fact.customer_id,
        fact.meter,
        fact.version,
        fact.billed_by,
        fact.since,
        fact.amount,
    )


async def subscription_of(tx: Tx, tenant_id: UUID, customer_id: UUID) -> Row | None:
    """A customer's subscription, and what its credit pays for by meter; a running one before a canceled one."""
    return await tx.fetchrow(
        """
        select id, billed_by, plan_key, plan_version_id, status, period_from, period_to, (
            select coalesce(jsonb_object_agg(
                c.meter, jsonb_build_object('since', c.since, 'amount', c.amount::text)), '{}')
            from credit_limit c
            where c.tenant_id = s.tenant_id and c.mode = s.mode and c.customer_id = s.customer_id
                and c.billed_by = s.billed_by and c.amount is not null
        ) as credit
        from subscription s where tenant_id = $1 and mode = $2 and customer_id = $3
        order by status = 'canceled', period_to desc nulls last, id desc limit 1
        """,
        tenant_id,
        tx.mode,
        customer_id,
    )


class Look(NamedTuple):
    """What is looked at of one customer and meter.

    Attributes:
        customer_id: None where billing knows no such customer.
        customers: how aggregates name it, in one or two ways.
    """

    customer_id: UUID | None
    meter_id: UUID
    customers: Sequence[str]
    period: tuple[datetime, datetime]


async def look_at_limits(
    database: Database,
    tenant_id: UUID,
    mode: Mode,
    held_after: datetime,
    looks: Sequence[Look],
) -> list[Row]:
    """Customers' subscriptions as `subscription_of` has them, and how meters stand in a period.

    Nulls stand where there is no subscription; beside it what is reserved of the meter, what of it was
    used, and when the tenant's newest event came in.
    """
    rows = await database.fetch(
        """
        select look.*
        from unnest($4::text::uuid[], $5::text::uuid[], $6::text::text[], $7::text::text[],
            $8::text::timestamptz[], $9::text::timestamptz[]) with ordinality
            as asked (customer_id, meter_id, customer, named_too, first_minute, end_minute, place)
        cross join lateral look_at_limit($1, $2, customer_id, meter_id, array[customer, named_too],
            $3, first_minute, end_minute) as look
        order by place
        """,
        tenant_id,
        mode,
        held_after,
        arrays.uuids(each.customer_id for each in looks),
        arrays.uuids(each.meter_id for each in looks),
        arrays.texts(each.customers[0] for each in looks),
        arrays.texts(each.customers[-1] for each in looks),
        arrays.times(each.period[0] for each in looks),
        arrays.times(each.period[1] for each in looks),
    )
    assert len(rows) == len(looks), "a look always has a row"
    return rows


async def find_plan_version(tx: Tx, tenant_id: UUID, plan_version_id: UUID) -> Row | None:
    """A version of a biller's plan."""
    return await tx.fetchrow(
        "select key, name, limits from plan_version where tenant_id = $1 and mode = $2 and id = $3",
        tenant_id,
        tx.mode,
        plan_version_id,
    )
