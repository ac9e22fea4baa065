"""Telling when usage reaches its limits: each threshold of a limit once in a period.

What counts usage only marks the customers that have limits, in its own transaction; a job looks at
the marked ones again. What it finds reached is entered under a unique key and told in the same
transaction, so that neither order nor batches nor a replay tell it twice. Usage is held against the
period it lies in, also when it comes late. What was told is not taken back when usage is corrected;
another amount of the same limit (an upgrade) has thresholds of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.billing import PlanLimit, SubscriptionChanged
from libs.contracts.configuration import NotificationsConfiguration
from libs.contracts.metering import LimitExceeded, LimitThresholdCrossed
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.directory.configuration import effective
from libs.directory.local import Directory, Tenant, business_now
from libs.ids import new_id, parse_uuid
from libs.messaging.outbox import emit
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.metering import closing, meters, store_forecasts, store_plans, store_queries
from services.metering import store_thresholds as store
from services.metering.measuring import EXACT, Meter
from services.metering.store_queries import Question
from services.metering.store_thresholds import Mark
from services.metering.windows import month_of
from services.metering.zones import zone_of

log = structlog.get_logger()

PERIODS_MAX = 24
"""Periods of a customer that one look reaches back, newest first."""

MONTHS_MAX = 3
"""The same for plans without a period, whose limits are of a calendar month."""


@dataclass(frozen=True)
class Line:
    """One limit of a customer in one period."""

    customer_id: UUID
    customers: list[str]
    subscription_id: UUID
    meter: Meter
    limit: PlanLimit
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Period:
    """A period of a subscription.

    Where the plan has none it is a calendar month by the clocks of the tenant's time zone.
    """

    subscription_id: UUID
    biller: UUID
    plan_version_id: UUID
    start: datetime
    end: datetime


class PlanNotKnownError(LookupError):
    """Billing's plan is still on its way."""


async def note_used(tx: Tx, used: Iterable[tuple[UUID, str, datetime]]) -> None:
    """Mark the customers of usage that has just been counted: one statement for a whole batch.

    Args:
        used: tenant, customer as aggregates name it, and time of each event that a limited meter
            counted (`Meter.limited`); without any nothing is done.
    """
    lines: dict[store.Line, tuple[UUID | None, datetime, datetime]] = {}
    for tenant_id, customer, at in used:
        customer_id = parse_uuid(customer)
        if customer and customer_id is None:
            continue  # a subject that is no customer of billing's has no plan
        _, first, last = lines.get((tenant_id, customer), (None, at, at))
        lines[tenant_id, customer] = (customer_id, min(first, at), max(last, at))
    if lines:
        await store.mark(tx, lines)


async def take_subscription(tx: Tx, fact: SubscriptionChanged, at: datetime) -> None:
    """Keep who is on which version, in which period.

    What was used before billing told of it counts against its limits too, so it is looked at.
    """
    changed = await store_plans.put_subscription(tx, fact)
    if fact.period_from is not None and fact.period_to is not None:
        changed = await store.put_period(tx, fact)
        at = fact.period_from
    if not changed:
        return
    line = (tx.tenant_id, str(fact.customer_id))
    await store.mark(tx, {line: (fact.customer_id, at, at)})


async def look_again(database: Database, directory: Directory, *, limit: int) -> None:
    """Hold the usage of marked customers against their limits, and tell what was reached."""
    for mark in await store.list_marks(database, limit=limit):
        done = False
        try:
            done = await _look_at(database, directory, mark)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="look_at_limits").inc()
            log.exception("limits_not_looked_at", tenant_id=str(mark.tenant_id))
        if not done:
            async with database.tenant(mark.tenant_id, mark.mode) as tx:
                await store.put_back(tx, mark)


async def _look_at(database: Database, directory: Directory, mark: Mark) -> bool:
    """Look at one customer's usage; False where it has to be looked at again."""
    tenant = await directory.by_id(mark.tenant_id)
    if tenant is None:
        return False
    settings = await effective(directory, tenant, NotificationsConfiguration)
    zone = await zone_of(directory, tenant)
    async with database.tenant(mark.tenant_id, mark.mode) as tx:
        done = await _look(tx, mark, tenant, zone, settings.limit_thresholds_percent)
        if done:
            await store.remove(tx, mark)
    return done


async def _look(
    tx: Tx, mark: Mark, tenant: Tenant, zone: tzinfo, percents: tuple[int, ...]
) -> bool:
    """Tell what a customer has reached; False where its plan is still on its way."""
    now = business_now(tenant, mark.mode)
    try:
        lines = await lines_of(tx, mark, tenant.snapshot.self_customer_id, now, zone)
    except PlanNotKnownError:
        await tx.enter(Scope((mark.tenant_id,), mark.mode))
        return False
    if lines:
        wanted = [(line.meter.id, line.customers[-1]) for line in lines]
        await store_forecasts.want(tx, wanted, utc_now())
    for line in lines:
        question = Question(line.start, line.end, customers=line.customers, until=now)
        totals = await store_queries.add_up(tx, line.meter, question, limit=1)
        if totals and totals[0].value > 0:
            await _tell(tx, line, totals[0].value, percents, now)
    return True


async def used_by_now(
    tx: Tx, overruns: Sequence[Row], self_customer_id: UUID, now: datetime
) -> dict[UUID, Decimal]:
    """What flagged usage has come to, by the overrun's id."""
    tenant, mode = tx.tenant_id, tx.mode
    known = await meters.applying(tx, [tenant], mode)
    await tx.enter(Scope((tenant,), mode))
    by_id = {meter.id: meter for meter in meters.of_tenant(known, tenant)}
    found = {}
    for row in overruns:
        customers = closing.customers_of(row["customer_id"], self_customer_id)
        question = Question(row["period_from"], row["period_to"], customers=customers, until=now)
        totals = await store_queries.add_up(tx, by_id[row["meter_id"]], question, limit=1)
        found[row["id"]] = totals[0].value if totals else Decimal(0)
    return found


async def lines_of(
    tx: Tx, mark: Mark, self_customer_id: UUID, now: datetime, zone: tzinfo
) -> list[Line]:
    """Every limit that the marked usage counts against.

    Raises:
        PlanNotKnownError: a plan is still on its way.
    """
    customer_id = parse_uuid(mark.customer) or self_customer_id
    periods = await _periods(tx, customer_id, mark, now, zone)
    if not periods:
        return []
    known = await meters.applying(tx, [mark.tenant_id], mark.mode)
    limits = {period: await _limits(tx, period) for period in periods}
    await tx.enter(Scope((mark.tenant_id,), mark.mode))
    customers = closing.customers_of(customer_id, self_customer_id)
    return [
        Line(customer_id, customers, period.subscription_id, meter, limit, period.start, period.end)
        for period in periods
        for limit in limits[period]
        for meter in known.get(period.biller, ())
        if meter.key == limit.meter
    ]


async def _periods(
    tx: Tx, customer_id: UUID, mark: Mark, now: datetime, zone: tzinfo
) -> list[Period]:
    rows = await store.periods_over(tx, customer_id, mark.since, mark.until, limit=PERIODS_MAX)
    found = [
        Period(
            row["subscription_id"],
            _biller(tx.tenant_id, row["billed_by"]),
            row["plan_version_id"],
            row["period_from"],
            row["period_to"],
        )
        for row in rows
    ]
    for row in await store.without_period(tx, customer_id):
        biller = _biller(tx.tenant_id, row["billed_by"])
        found += [
            Period(row["subscription_id"], biller, row["plan_version_id"], start, end)
            for start, end in months_between(mark.since, max(mark.until, now), zone)
        ]
    return found


async def _limits(tx: Tx, period: Period) -> list[PlanLimit]:
    await tx.enter(Scope((period.biller,), tx.mode))
    plan = await store_plans.find_plan_version(tx, period.biller, period.plan_version_id)
    if plan is None:
        raise PlanNotKnownError
    return [PlanLimit.model_validate(each) for each in plan["limits"]]


async def _tell(
    tx: Tx, line: Line, used: Decimal, percents: tuple[int, ...], now: datetime
) -> None:
    limit = line.limit
    hundredfold = EXACT.multiply(used, Decimal(100))
    reached = [each for each in percents if hundredfold >= EXACT.multiply(limit.amount, each)]
    said: dict[str, Any] = {
        "subscription_id": line.subscription_id,
        "customer_id": line.customer_id,
        "meter": limit.meter,
        "period_from": line.start,
        "period_to": line.end,
        "limit": limit.amount,
        "kind": limit.kind,
        "used": used,
    }
    if reached:
        place = (line.customer_id, limit.meter, line.start, limit.amount)
        for percent in await store.enter_crossings(tx, *place, reached, used, now):
            emit(tx, LimitThresholdCrossed(percent=percent, **said), effective_at=now)
    if used > limit.amount and await store.enter_overrun(tx, _overrun(line, now)):
        over = EXACT.subtract(used, limit.amount)
        emit(tx, LimitExceeded(over=over, **said), effective_at=now)


def _overrun(line: Line, now: datetime) -> Mapping[str, object]:
    return {
        "customer_id": line.customer_id,
        "meter": line.limit.meter,
        "period_from": line.start,
        "limit_amount": line.limit.amount,
        "id": new_id(),
        "meter_id": line.meter.id,
        "subscription_id": line.subscription_id,
        "period_to": line.end,
        "kind": line.limit.kind,
        "exceeded_at": now,
    }


def _biller(tenant_id: UUID, billed_by: str) -> UUID:
    return PLATFORM_TENANT_ID if billed_by == "platform" else tenant_id


def months_between(
    since: datetime, until: datetime, zone: tzinfo
) -> list[tuple[datetime, datetime]]:
    """The calendar months by a zone's clocks that reach into a time, the newest ones first."""
    found: list[tuple[datetime, datetime]] = []
    start, end = month_of(until, zone)
    while end > since and len(found) < MONTHS_MAX:
        found.append((start, end))
        start, end = month_of(start - timedelta.resolution, zone)
    return found
