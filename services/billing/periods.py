"""Which periods of a Stripe subscription have ended, and closing those that no cycle invoice ends.

A period that runs to its end is closed by its cycle invoice. One that is cut off (another interval, another
anchor, a trial or a pause that ends now) is followed by the next one before its end, and one that ends with
its subscription by none: Stripe makes no draft for either that could take lines.
"""

import itertools
from datetime import datetime

from libs.clock import floor_to_minute
from libs.contracts.stripe_sync import StripeSubscriptionChanged
from libs.db.pool import Row, Tx
from services.billing import store_customers, usage
from services.billing import store_usage as store

Period = tuple[datetime, datetime]

BEGINS_A_PERIOD = ("subscription_create", "subscription_cycle", "subscription_update")
"""Reasons of invoices with which a period may begin."""


async def close_left(
    tx: Tx, before: Row, after: Row, fact: StripeSubscriptionChanged, at: datetime
) -> None:
    """Close what ended when a customer's subscription became what it is now.

    Args:
        before: the subscription, which may have followed another one at Stripe.
        fact: what it follows now.
    """
    same = before["stripe_subscription_id"] == fact.stripe_subscription_id
    known = [_running(before)] if same and before["period_from"] is not None else []
    await _close_cut_off(tx, after, known, at)
    if same and before["status"] == "paused" and before["period_from"] < after["period_from"]:
        # Nothing is renewed during a pause, so the period before it lasts until it is over.
        await usage.close(tx, after, (before["period_from"], after["period_from"]), None, at)
    if after["status"] == "canceled":
        ended_at = fact.ended_at or min(at, fact.period_end)
        await usage.close(tx, after, (after["period_from"], floor_to_minute(ended_at)), None, at)


async def close_told_by_invoice(tx: Tx, invoice: Row, at: datetime) -> None:
    """Close what an invoice tells to have been cut off: states between may not have been seen."""
    if invoice["subscription_id"] is None or invoice["reason"] not in BEGINS_A_PERIOD:
        return
    subscription = await store_customers.find_subscription(tx, invoice["subscription_id"])
    assert subscription is not None, "an invoice refers to its subscription"
    if subscription["stripe_subscription_id"] == invoice["stripe_subscription_id"]:
        await _close_cut_off(tx, subscription, [], at)


async def _close_cut_off(tx: Tx, subscription: Row, known: list[Period], at: datetime) -> None:
    billed = await store.periods_billed(
        tx, subscription["id"], subscription["stripe_subscription_id"], BEGINS_A_PERIOD
    )
    running = _running(subscription)
    seen = [*known, running, *((row["begun"], row["ends"]) for row in billed)]
    # An invoice may be ahead of the states, which may still tell of a period between.
    for period in cut_off([each for each in seen if each[0] <= running[0]]):
        await usage.close(tx, subscription, period, None, at)


def _running(subscription: Row) -> Period:
    return subscription["period_from"], subscription["period_to"]


def cut_off(seen: list[Period]) -> list[Period]:
    """Of the periods that were seen to run, those that ended before their end, as long as they lasted."""
    ends: dict[datetime, datetime] = {}
    for begun, end in seen:
        ends[begun] = max(end, ends.get(begun, end))
    return [
        (begun, next_one)
        for begun, next_one in itertools.pairwise(sorted(ends))
        if next_one < ends[begun]
    ]
