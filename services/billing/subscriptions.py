"""Who bought what: the one subscription of each customer, and how it follows Stripe's.

A tenant begins on `free`. When it buys a plan through Stripe the same subscription changes plan, so
its id stays and there is exactly one per customer.
"""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from libs.clock import floor_to_minute
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import (
    NAME_NOT_TOLD,
    BilledBy,
    CustomerCreated,
    PlanPublished,
    SubscriptionChanged,
    SubscriptionStatus,
)
from libs.contracts.stripe_sync import StripeCustomerLinked, StripeSubscriptionChanged
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.billing import periods, plans
from services.billing import store_customers as store

log = structlog.get_logger()

CUSTOMER_WAIT_SECONDS = 2.0
CUSTOMER_POLL_SECONDS = 0.05

STATUS_OF_STRIPE: dict[str, SubscriptionStatus] = {
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "incomplete": "incomplete",
    "incomplete_expired": "canceled",
    "unpaid": "unpaid",
    "paused": "paused",
    "canceled": "canceled",
}
"""Stripe's words (https://docs.stripe.com/api/subscriptions/object, `status`) and ours."""

NEVER_BEGUN: frozenset[SubscriptionStatus] = frozenset({"incomplete", "canceled"})
"""A Stripe subscription in these states gives nobody a plan."""


async def sign_up(tx: Tx, fact: TenantCreated | TenantWentLive, at: datetime) -> None:
    """Make the tenant its own first customer of the mode in scope, on the free plan."""
    added = await store.add_customer(
        tx,
        fact.self_customer_id,
        billed_by="platform",
        name=fact.name,
        # Of the tenant itself the directory knows it, where it can be erased.
        email=None,
        currency=fact.currency,
        at=at,
    )
    if not added:
        return
    # Its name is the tenant's, which the directory tells everybody.
    emit(
        tx,
        CustomerCreated(
            customer_id=fact.self_customer_id, billed_by="platform", name=NAME_NOT_TOLD
        ),
        effective_at=at,
    )
    free = await plans.ensure_free_plan(tx, at)
    subscription = await store.add_subscription(
        tx,
        new_id(),
        fact.self_customer_id,
        plan_key=free.key,
        plan_version_id=free.plan_version_id,
        collection=free.collection,
        currency=fact.currency,
        at=at,
    )
    if subscription is not None:
        _tell(tx, subscription, "platform", at)
        _record(tx, None, subscription, "system", at)


async def find_customer(tx: Tx, customer_id: UUID) -> Row | None:
    """A customer by id."""
    return await store.find_customer(tx, customer_id)


async def find_self_customer(tx: Tx) -> Row | None:
    """The customer that is the tenant itself."""
    return await store.find_self_customer(tx)


async def wait_for_customer(
    database: Database, tenant_id: UUID, mode: Mode, customer_id: UUID | None
) -> Row | None:
    """A customer, or the tenant itself; one whose tenant signed up just now may be on its way."""
    deadline = time.monotonic() + CUSTOMER_WAIT_SECONDS
    while True:
        async with database.tenant(tenant_id, mode) as tx:
            if customer_id is None:
                found = await store.find_self_customer(tx)
            else:
                found = await store.find_customer(tx, customer_id)
        if found is not None or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(CUSTOMER_POLL_SECONDS)


async def list_customers(tx: Tx, *, after: UUID | None, limit: int) -> list[Row]:
    """Customers, oldest first."""
    return await store.list_customers(tx, after=after, limit=limit)


async def find_subscription(tx: Tx, subscription_id: UUID) -> Row | None:
    """A subscription by id."""
    return await store.find_subscription(tx, subscription_id)


async def list_subscriptions(
    tx: Tx, *, customer_id: UUID | None, after: UUID | None, limit: int
) -> list[Row]:
    """Subscriptions, of one customer or all; oldest first."""
    return await store.list_subscriptions(tx, customer_id=customer_id, after=after, limit=limit)


async def link_customer(tx: Tx, fact: StripeCustomerLinked) -> None:
    """Remember the customer's counterpart at Stripe."""
    await store.link_to_stripe(tx, fact.customer_id, fact.stripe_customer_id)


async def follow_stripe(tx: Tx, fact: StripeSubscriptionChanged, at: datetime) -> bool:
    """Take a newer state of a Stripe subscription of a known customer.

    Returns:
        Whether the Stripe subscription is one of ours; it is not while it names no plan version.
    """
    known = await store.find_stripe_subscription(tx, fact.stripe_subscription_id)
    if known is not None and known["version"] >= fact.version:
        return True
    plan = await _plan_bought(tx, fact, known)
    subscription = await store.lock_subscription_of(tx, fact.customer_id)
    if plan is None or subscription is None:
        log.warning("stripe_subscription_without_plan", object_id=fact.stripe_subscription_id)
        return False
    await store.put_stripe_subscription(
        tx,
        fact.stripe_subscription_id,
        subscription_id=subscription["id"],
        version=fact.version,
        plan_version_id=plan.plan_version_id,
        period_end=fact.period_end,
    )
    if known is None or known["plan_version_id"] != plan.plan_version_id:
        await store.put_plan_phase(
            tx,
            fact.stripe_subscription_id,
            _phase_start(fact, known, subscription, at),
            plan.plan_version_id,
        )
    if _takes_over(subscription, fact):
        await _change(tx, subscription, fact, plan, at)
    return True


async def _plan_bought(
    tx: Tx, fact: StripeSubscriptionChanged, known: Row | None
) -> PlanPublished | None:
    """The version the fact names, else the one known before."""
    named = await plans.find_version(tx, fact.plan_version_id) if fact.plan_version_id else None
    if named is None and known is not None:
        return await plans.find_version(tx, known["plan_version_id"])
    return named


def _phase_start(
    fact: StripeSubscriptionChanged, known: Row | None, before: Row, at: datetime
) -> datetime:
    """Since when the plan holds: a change with which a period begins counts for that period only."""
    if known is None or fact.period_start >= known["period_end"]:
        return fact.period_start
    followed = before["stripe_subscription_id"] == fact.stripe_subscription_id
    if followed and floor_to_minute(fact.period_start) > before["period_from"]:
        return fact.period_start
    latest = max(fact.period_start, fact.period_end - timedelta(minutes=1))
    return min(max(at, fact.period_start), latest)


def _takes_over(subscription: Row, fact: StripeSubscriptionChanged) -> bool:
    """Whether the customer's subscription follows this Stripe subscription."""
    current = subscription["stripe_subscription_id"]
    if current == fact.stripe_subscription_id:
        return True
    if STATUS_OF_STRIPE.get(fact.status, "canceled") in NEVER_BEGUN:
        return False
    if current is None or subscription["status"] == "canceled":
        return True
    log.error(
        "second_stripe_subscription", object_id=fact.stripe_subscription_id, current_id=current
    )
    return False


async def _change(
    tx: Tx, before: Row, fact: StripeSubscriptionChanged, plan: PlanPublished, at: datetime
) -> None:
    """Replace the state; where nothing changed nothing is told."""
    after: dict[str, Any] = {
        "plan_key": plan.key,
        "plan_version_id": plan.plan_version_id,
        "status": STATUS_OF_STRIPE[fact.status],
        "collection": plan.collection,
        "currency": plan.currency,
        "period_from": floor_to_minute(fact.period_start),
        "period_to": floor_to_minute(fact.period_end),
        "cancel_at_period_end": fact.cancel_at_period_end,
        "stripe_subscription_id": fact.stripe_subscription_id,
    }
    if all(before[name] == value for name, value in after.items()):
        return
    changed = await store.change_subscription(tx, before["id"], after)
    await periods.close_left(tx, before, changed, fact, at)
    customer = await store.find_customer(tx, before["customer_id"])
    assert customer is not None, "a subscription refers to its customer"
    _tell(tx, changed, customer["billed_by"], at)
    _record(tx, before, changed, "stripe", at)


def _record(tx: Tx, before: Row | None, after: Row, actor: str, at: datetime) -> None:
    """Have the audit log tell what was bought before and after; a mere renewal is no change."""
    was, now = _choice(before), _choice(after)
    if was == now:
        return
    change = ConfigurationChanged(
        action="subscription.changed" if was else "subscription.created",
        actor=actor,
        object_id=public_id("subscription", after["id"]),
        before=was,
        after=now,
    )
    emit(tx, change, effective_at=at)


def _choice(row: Row | None) -> dict[str, str | int | bool | None] | None:
    if row is None:
        return None
    return {
        "plan": row["plan_key"],
        "plan_version_id": str(row["plan_version_id"]),
        "status": row["status"],
        "cancel_at_period_end": row["cancel_at_period_end"],
        "stripe_subscription_id": row["stripe_subscription_id"],
    }


def _tell(tx: Tx, subscription: Row, billed_by: BilledBy, at: datetime) -> None:
    fact = SubscriptionChanged(
        subscription_id=subscription["id"],
        version=subscription["version"],
        customer_id=subscription["customer_id"],
        billed_by=billed_by,
        plan_key=subscription["plan_key"],
        plan_version_id=subscription["plan_version_id"],
        status=subscription["status"],
        collection=subscription["collection"],
        currency=subscription["currency"],
        period_from=subscription["period_from"],
        period_to=subscription["period_to"],
        cancel_at_period_end=subscription["cancel_at_period_end"],
        stripe_subscription_id=subscription["stripe_subscription_id"],
    )
    emit(tx, fact, effective_at=at)
