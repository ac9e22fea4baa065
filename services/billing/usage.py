"""The usage of ended periods: asking metering for it, and what its answers cost."""

from datetime import datetime

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


async def close_period(tx: Tx, invoice: Row, at: datetime) -> bool:
    """Ask for the quantities of the period that a cycle invoice ends.

    Returns:
        Whether answers are awaited: not where the plan has no meters, where the period is closed
        already, or where the Stripe subscription is not the one the customer's plan follows (its
        usage belongs to the other's invoice).
    """
    subscription = await store_customers.find_subscription(tx, invoice["subscription_id"])
    assert subscription is not None, "an invoice refers to its subscription"
    if subscription["stripe_subscription_id"] != invoice["stripe_subscription_id"]:
        log.warning("cycle_of_other_stripe_subscription", object_id=invoice["stripe_invoice_id"])
        return False
    plan = await _plan_of_period(tx, invoice, subscription)
    meters = tuple(sorted(metered_prices(plan)))
    if not meters or invoice["period_from"] == invoice["period_to"]:
        return False
    closure_id = new_id()
    added = await store.add_closure(
        tx,
        closure_id,
        subscription_id=subscription["id"],
        plan_version_id=plan.plan_version_id,
        invoice_id=invoice["id"],
        period_from=invoice["period_from"],
        period_to=invoice["period_to"],
    )
    if not added:
        return False
    request = UsagePeriodClosed(
        closure_id=closure_id,
        subscription_id=subscription["id"],
        customer_id=subscription["customer_id"],
        meters=meters,
        period_from=invoice["period_from"],
        period_to=invoice["period_to"],
    )
    emit(tx, request, effective_at=at)
    return True


async def _plan_of_period(tx: Tx, invoice: Row, subscription: Row) -> PlanPublished:
    version_id = await store_customers.plan_version_before(
        tx, invoice["stripe_subscription_id"], invoice["period_to"]
    )
    plan = await plans.find_version(tx, version_id or subscription["plan_version_id"])
    assert plan is not None, "versions are never deleted"
    return plan


async def take(tx: Tx, fact: PeriodUsage) -> Row | None:
    """Keep an answer of metering and rate it; the closure it belongs to when something changed.

    A quantity beyond what money can be is not rated: the draft stays held and says why, until a
    later revision brings a sane one.
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
        await store_invoices.hold_back(tx, closure["invoice_id"], NOT_RATEABLE)
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
    """Whether every meter of the closure has been answered."""
    plan = await plans.find_version(tx, closure["plan_version_id"])
    assert plan is not None, "versions are never deleted"
    return metered_prices(plan).keys() <= await store.charged_meters(tx, closure["id"])
