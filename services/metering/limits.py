"""Limits of plans: what a customer has used of them in the current period."""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Literal
from uuid import UUID

from libs.contracts.billing import PlanLimit, PlanPublished
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from services.metering import store_plans as store
from services.metering import store_queries
from services.metering.measuring import EXACT, Meter
from services.metering.store_queries import Question
from services.metering.windows import month_of


@dataclass(frozen=True)
class Standing:
    """A customer's subscription as limits see it.

    Attributes:
        subscription, plan: None where billing has told of none.
        start, end: the current period; where the plan has none, a calendar month by the clocks of the
            tenant's time zone.
        now: business time.
        is_planned: whether the period is the plan's own.
    """

    subscription: Row | None
    plan: Row | None
    start: datetime
    end: datetime
    now: datetime
    is_planned: bool

    def limit_on(self, meter: Meter) -> PlanLimit | None:
        """The plan's limit on a meter of the biller's: another's of the same key has none."""
        if self.subscription is None:
            return None
        of_platform = meter.tenant_id == PLATFORM_TENANT_ID
        if of_platform != (self.subscription["billed_by"] == "platform"):
            return None
        return next((each for each in self.limits() if each.meter == meter.key), None)

    def limits(self) -> list[PlanLimit]:
        """The plan's limits."""
        return [PlanLimit.model_validate(each) for each in self.plan["limits"]] if self.plan else []


@dataclass(frozen=True)
class Check:
    """Whether an amount may be used; `limit` and what is left are None where there is no limit.

    Attributes:
        reserved: held by reservations, or settled by them and not counted yet.
    """

    allowed: bool
    used: Decimal
    reserved: Decimal
    limit: Decimal | None
    remaining: Decimal | None
    kind: Literal["soft", "hard"] | None


async def take_plan(tx: Tx, fact: PlanPublished) -> None:
    """Keep a plan version's limits."""
    await store.add_plan_version(tx, fact)


async def standing_of(tx: Tx, customer_id: UUID | None, now: datetime, zone: tzinfo) -> Standing:
    """Where a customer stands; None is one that billing does not know.

    Args:
        zone: the tenant's.
    """
    tenant, mode = tx.tenant_id, tx.mode
    subscription = plan = None
    if customer_id is not None:
        subscription = await store.subscription_of(tx, tenant, customer_id)
    if subscription is not None:
        biller = PLATFORM_TENANT_ID if subscription["billed_by"] == "platform" else tenant
        await tx.enter(Scope((biller,), mode))
        plan = await store.find_plan_version(tx, biller, subscription["plan_version_id"])
        await tx.enter(Scope((tenant,), mode))
    period = _current_period(subscription, now)
    start, end = period or month_of(now, zone)
    return Standing(subscription, plan, start, end, now, period is not None)


async def check(
    tx: Tx,
    meter: Meter,
    standing: Standing,
    customers: list[str],
    amount: Decimal,
    reserved: Decimal,
) -> Check:
    """Whether `amount` more may be used in the current period; a soft limit refuses nothing."""
    question = Question(standing.start, standing.end, customers=customers, until=standing.now)
    totals = await store_queries.add_up(tx, meter, question, limit=1)
    used = totals[0].value if totals else Decimal(0)
    limit = standing.limit_on(meter)
    if limit is None:
        return Check(True, used, reserved, None, None, None)
    taken = EXACT.add(used, reserved)
    within = EXACT.add(taken, amount) <= limit.amount
    remaining = max(EXACT.subtract(limit.amount, taken), Decimal(0))
    return Check(
        within or limit.kind == "soft", used, reserved, limit.amount, remaining, limit.kind
    )


def _current_period(subscription: Row | None, now: datetime) -> tuple[datetime, datetime] | None:
    """The subscription's period; at its end the next one of the same length, until billing tells."""
    if subscription is None or subscription["period_from"] is None:
        return None
    start, end = subscription["period_from"], subscription["period_to"]
    if now >= end:
        start, end = end, end + (end - start)
    return (start, end) if start <= now < end else None
