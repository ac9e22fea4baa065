"""Limits of plans and of credit: what a customer has used of them."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Literal
from uuid import UUID

from libs.clock import floor_to_minute
from libs.contracts.billing import CreditLimitSet, PlanLimit, PlanPublished
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode, Scope
from services.metering import store_plans as store
from services.metering import store_queries
from services.metering.measuring import EXACT, Meter
from services.metering.store_queries import Question
from services.metering.unchanging import Unchanging
from services.metering.window import AHEAD_MAX
from services.metering.windows import MINUTE, ceil_to_minute, month_of

_plans: Unchanging[tuple[UUID, Mode, UUID], Row] = Unchanging()


@dataclass(frozen=True)
class CreditLimit:
    """How much of a meter credit pays for, of what is used from `since` on."""

    since: datetime
    amount: Decimal


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
        if not self._is_billed(meter):
            return None
        return next((each for each in self.limits() if each.meter == meter.key), None)

    def credit_on(self, meter: Meter) -> CreditLimit | None:
        """What the customer's credit pays for of a meter of the biller's; None: it bounds nothing."""
        if self.subscription is None or not self._is_billed(meter):
            return None
        told = self.subscription["credit"].get(meter.key)
        if told is None:
            return None
        since = floor_to_minute(datetime.fromisoformat(told["since"]).astimezone(UTC))
        return CreditLimit(since, Decimal(told["amount"]))

    def _is_billed(self, meter: Meter) -> bool:
        if self.subscription is None:
            return False
        by_platform: bool = self.subscription["billed_by"] == "platform"
        return by_platform == (meter.tenant_id == PLATFORM_TENANT_ID)

    def limits(self) -> list[PlanLimit]:
        """The plan's limits."""
        return [PlanLimit.model_validate(each) for each in self.plan["limits"]] if self.plan else []


@dataclass(frozen=True)
class CreditCheck:
    """What was used of what credit pays for, and what is left."""

    since: datetime
    used: Decimal
    limit: Decimal
    remaining: Decimal


@dataclass(frozen=True)
class Check:
    """Whether an amount may be used; `limit` and what is left are None where there is no limit.

    Attributes:
        allowed: by the plan, and by credit where it bounds the meter.
        reserved: held by reservations, or settled by them and not counted yet.
        credit: None where it does not bound the meter.
    """

    allowed: bool
    used: Decimal
    reserved: Decimal
    limit: Decimal | None
    remaining: Decimal | None
    kind: Literal["soft", "hard"] | None
    credit: CreditCheck | None = None


async def take_plan(tx: Tx, fact: PlanPublished) -> None:
    """Keep a plan version's limits."""
    await store.add_plan_version(tx, fact)


async def take_credit_limit(tx: Tx, fact: CreditLimitSet) -> None:
    """Keep how much of a meter a customer's credit pays for."""
    await store.put_credit_limit(tx, fact)


async def standing_of(tx: Tx, customer_id: UUID | None, now: datetime, zone: tzinfo) -> Standing:
    """Where a customer stands; None is one that billing does not know.

    Args:
        zone: the tenant's.
    """
    subscription = plan = None
    if customer_id is not None:
        subscription = await store.subscription_of(tx, tx.tenant_id, customer_id)
    if subscription is not None:
        plan = await _plan_of(tx, subscription)
    return standing_by(subscription, plan, now, zone)


def standing_by(
    subscription: Row | None, plan: Row | None, now: datetime, zone: tzinfo
) -> Standing:
    """Where somebody with this subscription stands."""
    planned = _current_period(subscription, now)
    start, end = planned or month_of(now, zone)
    return Standing(subscription, plan, start, end, now, planned is not None)


def period_of(subscription: Row | None, now: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The current period of somebody with this subscription."""
    return _current_period(subscription, now) or month_of(now, zone)


def plan_at_hand(tenant_id: UUID, mode: Mode, subscription: Row) -> Row | None:
    """The version of a plan that a tenant's subscription is on, where it was found before."""
    return _plans.find((_biller_of(tenant_id, subscription), mode, subscription["plan_version_id"]))


async def _plan_of(tx: Tx, subscription: Row) -> Row | None:
    """The version of a plan that a subscription is on; None while billing has not told of it."""
    tenant = tx.tenant_id
    plan = plan_at_hand(tenant, tx.mode, subscription)
    if plan is None:
        biller, version = _biller_of(tenant, subscription), subscription["plan_version_id"]
        await tx.enter(Scope((biller,), tx.mode))
        plan = await store.find_plan_version(tx, biller, version)
        await tx.enter(Scope((tenant,), tx.mode))
        if plan is not None:
            _plans.keep((biller, tx.mode, version), plan)
    return plan


def _biller_of(tenant_id: UUID, subscription: Row) -> UUID:
    return PLATFORM_TENANT_ID if subscription["billed_by"] == "platform" else tenant_id


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
    credit = await check_credit(tx, meter, standing, customers, reserved)
    return judge(standing, meter, amount, used, reserved, credit)


def judge(
    standing: Standing,
    meter: Meter,
    amount: Decimal,
    used: Decimal,
    reserved: Decimal,
    credit: CreditCheck | None,
) -> Check:
    """The same, of what was used in the period and how credit stands."""
    paid_for = credit is None or fits(amount, credit.used, reserved, credit.limit)
    limit = standing.limit_on(meter)
    if limit is None:
        return Check(paid_for, used, reserved, None, None, None, credit)
    within = limit.kind == "soft" or fits(amount, used, reserved, limit.amount)
    remaining = _left(limit.amount, used, reserved)
    return Check(within and paid_for, used, reserved, limit.amount, remaining, limit.kind, credit)


def fits(amount: Decimal, used: Decimal, reserved: Decimal, limit: Decimal) -> bool:
    """Whether so much more stays within a limit."""
    return EXACT.add(EXACT.add(used, reserved), amount) <= limit


async def check_credit(
    tx: Tx, meter: Meter, standing: Standing, customers: list[str], reserved: Decimal
) -> CreditCheck | None:
    """How a customer stands against its credit; None where it does not bound the meter."""
    credit = standing.credit_on(meter)
    if credit is None:
        return None
    # Usage may be told a little ahead of its time.
    end = max(standing.end, ceil_to_minute(standing.now + AHEAD_MAX) + MINUTE)
    question = Question(credit.since, end, customers=customers, until=standing.now)
    totals = await store_queries.add_up(tx, meter, question, limit=1)
    used = totals[0].value if totals else Decimal(0)
    return CreditCheck(credit.since, used, credit.amount, _left(credit.amount, used, reserved))


def _left(limit: Decimal, used: Decimal, reserved: Decimal) -> Decimal:
    return max(EXACT.subtract(limit, EXACT.add(used, reserved)), Decimal(0))


def _current_period(subscription: Row | None, now: datetime) -> tuple[datetime, datetime] | None:
    """The subscription's period; at its end the next one of the same length, until billing tells."""
    if subscription is None or subscription["period_from"] is None:
        return None
    start, end = subscription["period_from"], subscription["period_to"]
    if now >= end:
        start, end = end, end + (end - start)
    return (start, end) if start <= now < end else None
