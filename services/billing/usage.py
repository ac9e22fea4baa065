"""The usage of ended periods: asking metering for it, and what its answers cost."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog

from libs.contracts.billing import GraduatedPrice, PlanPublished, UsagePeriodClosed
from libs.contracts.metering import PeriodUsage
from libs.db.pool import Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.money import AmountOutOfRangeError
from services.billing import plans, store_customers, store_invoices
from services.billing import store_usage as store
from services.billing.rating import rate

log = structlog.get_logger()

NOT_RATEABLE = "usage_not_rateable"
"""`completion_error` of an invoice whose usage costs more than money can be."""


def metered_prices(plan: PlanPublished) -> dict[str, GraduatedPrice]:
    """The plan's usage prices by meter."""
    return {price.meter: price for price in plan.prices if isinstance(price, GraduatedPrice)}


async def close_period(tx: Tx, invoice: Row, at: datetime) -> None:
    """Close the period that a cycle invoice ends.

    Not where the Stripe subscription is not the one the customer's plan follows: its usage belongs to
    the other's invoice.
    """
    subscription = await store_customers.find_subscription(tx, invoice["subscription_id"])
    assert subscription is not None, "an invoice refers to its subscription"
    if subscription["stripe_subscription_id"] != invoice["stripe_subscription_id"]:
        log.warning("cycle_of_other_stripe_subscription", object_id=invoice["stripe_invoice_id"])
        return
    period = invoice["period_from"], invoice["period_to"]
    await close(tx, subscription, period, invoice["id"], at)


async def close(
    tx: Tx,
    subscription: Row,
    period: tuple[datetime, datetime],
    invoice_id: UUID | None,
    at: datetime,
) -> None:
    """Ask for the quantities of an ended period, or of what of it is not closed yet.

    Nothing is asked where the plan has no meters.

    Args:
        invoice_id: the invoice that ends the period; None: it comes on the next one that takes lines.
    """
    plan = await _plan_at_end(tx, subscription, period[1])
    meters = tuple(sorted(metered_prices(plan)))
    closed = await store.closures_in(tx, subscription["id"], *period)
    left = not_closed(period, [(row["period_from"], row["period_to"]) for row in closed])
    if not meters or not left:
        return
    for period_from, period_to in left:
        request = UsagePeriodClosed(
            closure_id=new_id(),
            subscription_id=subscription["id"],
            customer_id=subscription["customer_id"],
            meters=meters,
            period_from=period_from,
            period_to=period_to,
        )
        is_last = period_to == left[-1][1]
        await store.add_closure(tx, request, plan.plan_version_id, invoice_id if is_last else None)
        emit(tx, request, effective_at=at)


def not_closed(
    period: tuple[datetime, datetime], closed: Sequence[tuple[datetime, datetime]]
) -> list[tuple[datetime, datetime]]:
    """The parts of a period outside of others, which are in order and do not overlap each other."""
    parts = []
    begun, end = period
    for other_begun, other_end in closed:
        if begun < other_begun:
            parts.append((begun, other_begun))
        begun = max(begun, other_end)
    if begun < end:
        parts.append((begun, end))
    return parts


async def _plan_at_end(tx: Tx, subscription: Row, period_to: datetime) -> PlanPublished:
    version_id = await store_customers.plan_version_before(
        tx, subscription["stripe_subscription_id"], period_to
    )
    plan = await plans.find_version(tx, version_id or subscription["plan_version_id"])
    assert plan is not None, "versions are never deleted"
    return plan


async def take(tx: Tx, fact: PeriodUsage) -> Row | None:
    """Keep an answer of metering and rate it; the closure it belongs to when something changed.

    A quantity beyond what money can be is not rated: drafts that wait for it stay held and say why,
    until a later revision brings a sane one.
    """
    new = await store.add_usage(
        tx, fact.closure_id, fact.meter, fact.revision, fact.quantity, fact.event_count
    )
    if not new:
        return None
    closure = await store.find_closure(tx, fact.closure_id)
    if closure is None:
        log.warning("usage_of_unknown_closure", closure_id=str(fact.closure_id))
        return None
    plan = await plans.find_version(tx, closure["plan_version_id"])
    assert plan is not None, "versions are never deleted"
    price = metered_prices(plan).get(fact.meter)
    if price is None:
        log.warning("usage_of_unpriced_meter", closure_id=str(fact.closure_id), meter=fact.meter)
        return None
    try:
        rated = rate(price, fact.quantity)
    except AmountOutOfRangeError:
        log.exception("usage_not_rateable", closure_id=str(fact.closure_id), meter=fact.meter)
        await store_invoices.hold_back(tx, closure, NOT_RATEABLE)
        return None
    explanation = rated.explanation() | {
        "revision": fact.revision,
        "event_count": fact.event_count,
        "price_id": str(price.price_id),
        "price_version": plan.version,
        "plan_key": plan.key,
        "closure_id": str(fact.closure_id),
    }
    await store.put_charge(
        tx, closure, fact.meter, fact.revision, fact.quantity, rated.amount_minor, explanation
    )
    return closure


async def all_rated(tx: Tx, closure: Row) -> bool:
    """Whether every meter of a closure has been answered."""
    plan = await plans.find_version(tx, closure["plan_version_id"])
    assert plan is not None, "versions are never deleted"
    return metered_prices(plan).keys() <= await store.charged_meters(tx, closure["id"])


async def is_awaited(tx: Tx, invoice: Row) -> bool:
    """Whether an answer is still to come that an invoice waits for.

    It waits for its own period, and for those without an invoice of their own that ended by its end.
    """
    closures = await store.closures_for(
        tx, invoice["id"], invoice["subscription_id"], invoice["period_to"]
    )
    for closure in closures:
        if not await all_rated(tx, closure):
            return True
    return False
