"""Prepaid use: how much of a meter a customer's credit pays for, told to metering as a quantity.

Credit is used when a period is invoiced. So what it buys counts from the first moment whose use is on no
invoice yet, and is told anew with whatever changes it. What is told never exceeds what credit pays for: it
leaves alone what the invoices to come take from it for fees and corrections; meters that share it have
equal parts; and where an ended period waits for its invoice, its use and that of the running one count
together, with what is included once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import CreditLimitSet, FlatPrice, PlanPublished
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.billing import plans, store_credits, store_customers
from services.billing import store_prepaid as store
from services.billing.rating import quantity_for
from services.billing.usage import metered_prices


@dataclass(frozen=True)
class Unbilled:
    """What of a subscription's use is on no invoice yet.

    Attributes:
        since: the first such moment.
        periods: how many periods ended since then.
        plans: those by which any of these periods is rated.
        put_aside_minor: what their invoices, and that of the running one, take for other than their use.
    """

    since: datetime
    periods: int
    plans: tuple[PlanPublished, ...]
    put_aside_minor: int


async def choose(
    tx: Tx, customer_id: UUID, meters: Sequence[str], at: datetime, *, actor: str
) -> None:
    """Have credit bound these meters of a customer, and no others.

    Args:
        at: business time.
    """
    await store_customers.lock_tenant(tx)
    chosen = sorted(set(meters))
    before = await store.put(tx, customer_id, chosen, at)
    if chosen != before:
        change = ConfigurationChanged(
            action="customer.prepaid_changed",
            actor=actor,
            object_id=public_id("customer", customer_id),
            before={"meters": ", ".join(before)},
            after={"meters": ", ".join(chosen)},
        )
        emit(tx, change, effective_at=at)
    await renew(tx, customer_id, at)


async def renew(tx: Tx, customer_id: UUID, at: datetime) -> None:
    """Tell metering what credit buys now, meter by meter, where that is not what it was told last.

    Args:
        at: business time. An earlier one than before says nothing new: what has expired stays so.
    """
    await store_customers.lock_tenant(tx)
    prepaid = await store.find(tx, customer_id)
    if prepaid is None:
        return
    at = max(at, prepaid["looked_at"])
    subscription = await store_customers.lock_subscription_of(tx, customer_id)
    bought: Mapping[str, Decimal] = {}
    since: datetime | None = None
    if subscription is not None and _is_billed(subscription):
        unbilled = await _unbilled(tx, subscription, prepaid["since"])
        bought = await _bought(tx, subscription, prepaid["meters"], unbilled, at)
        since = unbilled.since if bought else None
    await store.note_look(tx, customer_id, since, at)
    await _tell(tx, customer_id, since, bought, at)


async def limits_of(tx: Tx, customer_id: UUID) -> tuple[list[str], list[Row]]:
    """Which meters credit bounds, and what metering was told of those that it bounds now."""
    prepaid = await store.find(tx, customer_id)
    if prepaid is None:
        return [], []
    rows = await store.told(tx, customer_id)
    return prepaid["meters"], [row for row in rows if row["amount"] is not None]


def _is_billed(subscription: Row) -> bool:
    """Whether its use comes on invoices: not on a plan without a period, nor when it has ended."""
    return subscription["period_from"] is not None and subscription["status"] != "canceled"


async def _unbilled(tx: Tx, subscription: Row, before: datetime | None) -> Unbilled:
    """What is on no invoice yet.

    A period may be known to have begun before the one that ended is closed, so its beginning moves on only
    with what is on an invoice; what lies between is periods that are still to be closed.

    Args:
        before: the first moment whose use was on no invoice when it was looked at last.
    """
    begun: datetime = subscription["period_from"]
    running = await _plan(tx, subscription["plan_version_id"])
    since = begun if before is None else before
    closures = await store.closures(tx, subscription["id"], before)
    closed_to = max([since, *(row["period_to"] for row in closures)])
    rated = {
        version: await _plan(tx, version)
        for version in sorted({row["plan_version_id"] for row in closures})
    }
    # Another period's invoice may have taken up one charge of a period before the others were known.
    open_ones = [
        row
        for row in closures
        if not metered_prices(rated[row["plan_version_id"]]).keys() <= set(row["invoiced"])
    ]
    if before is not None:
        since = max([since, *(row["period_to"] for row in closures if row not in open_ones)])
    since = min([since, *(row["period_from"] for row in open_ones)])
    versions = {row["plan_version_id"] for row in open_ones}
    unclosed = 0
    if closed_to < begun:
        length = max(subscription["period_to"] - begun, timedelta(minutes=1))
        # Rounded up, but for what months differ by in length.
        unclosed = max(1, -((closed_to - begun + length / 8) // length))
        versions |= await store.versions_between(tx, subscription["id"], closed_to, begun)
    found = [running] + [await _plan(tx, version) for version in sorted(versions)]
    put_aside = _fee(running) + unclosed * max(_fee(plan) for plan in found)
    for row in open_ones:
        if row["is_draft"]:
            put_aside += max(_fee(rated[row["plan_version_id"]]), row["stripe_minor"])
    put_aside += await store.due_minor(tx, subscription["id"])
    return Unbilled(since, len(open_ones) + unclosed, tuple(found), put_aside)


async def _plan(tx: Tx, version_id: UUID) -> PlanPublished:
    plan = await plans.find_version(tx, version_id)
    assert plan is not None, "versions are never deleted"
    return plan


def _fee(plan: PlanPublished) -> int:
    return sum(price.amount_minor for price in plan.prices if isinstance(price, FlatPrice))


async def _bought(
    tx: Tx, subscription: Row, meters: Sequence[str], unbilled: Unbilled, at: datetime
) -> dict[str, Decimal]:
    """How much of each of these meters credit pays for, where by some plan it costs something."""
    prices = [metered_prices(plan) for plan in unbilled.plans]
    priced = [
        meter
        for meter in meters
        if any(quantity_for(each[meter], 0) is not None for each in prices if meter in each)
    ]
    if not priced:
        return {}
    left = await store_credits.usable_minor(
        tx,
        subscription["customer_id"],
        subscription["currency"],
        # The invoice of the running period uses no credit that expires before that has ended.
        max(at, subscription["period_to"]),
        store_credits.GRANTS_PER_INVOICE_MAX,
    )
    share = max(left - unbilled.put_aside_minor, 0) // len(priced) // (unbilled.periods + 1)
    found = {}
    for meter in priced:
        least = _least(quantity_for(each[meter], share) for each in prices if meter in each)
        if least is not None:
            found[meter] = least
    return found


def _least(quantities: Iterable[Decimal | None]) -> Decimal | None:
    return min((each for each in quantities if each is not None), default=None)


async def _tell(
    tx: Tx,
    customer_id: UUID,
    since: datetime | None,
    bought: Mapping[str, Decimal],
    at: datetime,
) -> None:
    told = {row["meter"]: row for row in await store.told(tx, customer_id)}
    customer = await store_customers.find_customer(tx, customer_id)
    assert customer is not None, "who pays beforehand is a customer"
    for meter in sorted(bought.keys() | told.keys()):
        last, amount = told.get(meter), bought.get(meter)
        if amount is None:
            if last is None or last["amount"] is None:
                continue
            begins: datetime = last["since"]
        else:
            assert since is not None, "what is bounded is bounded since some moment"
            begins = since
            if last is not None and (last["since"], last["amount"]) == (begins, amount):
                continue
        version = await store.put_told(tx, customer_id, meter, begins, amount)
        fact = CreditLimitSet(
            customer_id=customer_id,
            billed_by=customer["billed_by"],
            meter=meter,
            version=version,
            since=begins,
            amount=amount,
        )
        emit(tx, fact, effective_at=at)
