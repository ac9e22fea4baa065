"""The usage report of a tenant (requirement M4): its plan, each meter, its users."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from libs.contracts.billing import PlanLimit
from libs.contracts.metering import Aggregation
from libs.db.pool import Tx
from libs.db.tenant import Scope
from libs.directory.local import Tenant
from libs.ids import public_id
from services.metering import meters, store_queries
from services.metering.closing import customers_of
from services.metering.limits import Standing
from services.metering.measuring import EXACT, Meter, plain
from services.metering.store_queries import USER, Question

USERS_MAX = 1_000
"""Users listed per metric; `summary.unique_users` counts all."""
USERS_COMPARED_MAX = 50_000
"""Of so many, the first by name, those who used the most are listed."""


class ReportTenant(BaseModel):
    """Whose report it is."""

    id: UUID
    name: str
    type: str


class ReportPeriod(BaseModel):
    """Whole minutes, the end not included; times are UTC."""

    from_: datetime = Field(serialization_alias="from")
    to: datetime


class ReportLimit(BaseModel):
    """A limit of the tenant's plan and where it stands: what it used itself, not what its customers did."""

    meter: str
    amount: str
    kind: Literal["soft", "hard"]
    used: str
    over: str
    overage_allowed: bool
    over_limit: bool = Field(
        description="Whether usage came in beyond a hard limit: it is counted all the same."
    )


class ReportUser(BaseModel):
    """One user's part; the user is null where events name none."""

    user: str | None
    total: str
    count: int


class ReportMetric(BaseModel):
    """One meter over the period; `count` is the number of events."""

    meter: str
    aggregation: Aggregation
    total: str
    count: int
    by_user: list[ReportUser] = Field(
        description=f"Who used the most comes first; up to {USERS_MAX} users."
    )
    truncated: bool = Field(description="Whether there are users who are not listed.")


class ReportSummary(BaseModel):
    """Over all metrics. `total_usage` adds their totals up, whatever their units."""

    metrics: int
    total_usage: str
    unique_users: int


class Report(BaseModel):
    """What a tenant used in a period."""

    tenant: ReportTenant
    period: ReportPeriod
    time_zone: str = Field(description="By whose clocks a calendar month is one.")
    plan: str | None
    subscription_id: str | None
    subscription_status: str | None
    limits: list[ReportLimit]
    overages_allowed: bool = Field(
        description="Whether use beyond every limit is charged, not refused."
    )
    metrics: list[ReportMetric]
    summary: ReportSummary
    as_of: datetime | None


async def write(
    tx: Tx,
    tenant: Tenant,
    standing: Standing,
    start: datetime,
    end: datetime,
    time_zone: str,
    as_of: datetime | None,
) -> Report:
    """The report over whole minutes of the tenant in scope."""
    known = await meters.applying(tx, [tx.tenant_id], tx.mode)
    await tx.enter(Scope((tenant.id,), tx.mode))
    measured = meters.of_tenant(known, tenant.id)
    question = Question(start, end, until=standing.now)
    metrics = [await _metric(tx, meter, question) for meter in measured]
    own = customers_of(tenant.snapshot.self_customer_id, tenant.snapshot.self_customer_id)
    of_its_own = replace(question, customers=own)
    found = [
        _limit(limit, await _used(tx, limit, standing, measured, of_its_own))
        for limit in standing.limits()
    ]
    subscription = standing.subscription
    total_usage = Decimal(0)
    for metric in metrics:
        total_usage = EXACT.add(total_usage, Decimal(metric.total))
    return Report(
        tenant=ReportTenant(
            id=tenant.id, name=tenant.snapshot.name, type=tenant.snapshot.tenant_type
        ),
        period=ReportPeriod(from_=start, to=end),
        time_zone=time_zone,
        plan=subscription["plan_key"] if subscription else None,
        subscription_id=public_id("subscription", subscription["id"]) if subscription else None,
        subscription_status=subscription["status"] if subscription else None,
        limits=found,
        overages_allowed=all(limit.overage_allowed for limit in found),
        metrics=metrics,
        summary=ReportSummary(
            metrics=len(metrics),
            total_usage=plain(total_usage),
            unique_users=await store_queries.count_users(
                tx, [meter.id for meter in measured], start, end
            ),
        ),
        as_of=as_of,
    )


async def _metric(tx: Tx, meter: Meter, question: Question) -> ReportMetric:
    whole = await store_queries.add_up(tx, meter, question, limit=1)
    by_user = await store_queries.add_up(
        tx, meter, replace(question, breakdown=(USER,)), limit=USERS_COMPARED_MAX
    )
    # Sorted by name already, for those who used as much.
    by_user.sort(key=lambda each: each.value, reverse=True)
    return ReportMetric(
        meter=meter.key,
        aggregation=meter.aggregation,
        total=plain(whole[0].value) if whole else "0",
        count=whole[0].event_count if whole else 0,
        by_user=[
            ReportUser(user=each.parts[0] or None, total=plain(each.value), count=each.event_count)
            for each in by_user[:USERS_MAX]
        ],
        truncated=len(by_user) > USERS_MAX,
    )


async def _used(
    tx: Tx, limit: PlanLimit, standing: Standing, measured: Sequence[Meter], question: Question
) -> Decimal:
    """What counts against a limit: the biller's meter of that key says it."""
    for meter in measured:
        if meter.key == limit.meter and standing.limit_on(meter) is not None:
            totals = await store_queries.add_up(tx, meter, question, limit=1)
            return totals[0].value if totals else Decimal(0)
    return Decimal(0)


def _limit(limit: PlanLimit, used: Decimal) -> ReportLimit:
    over = max(EXACT.subtract(used, limit.amount), Decimal(0))
    return ReportLimit(
        meter=limit.meter,
        amount=plain(limit.amount),
        kind=limit.kind,
        used=plain(used),
        over=plain(over),
        overage_allowed=limit.kind == "soft",
        over_limit=limit.kind == "hard" and over > 0,
    )
