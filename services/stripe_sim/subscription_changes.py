"""Changes of a running subscription: other prices with proration, pausing, resuming."""

from datetime import UTC, datetime
from typing import Any

from services.stripe_sim import collection, discounts, invoice_items, invoices, renewals
from services.stripe_sim import money as money_rules
from services.stripe_sim import subscriptions as subs
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import merge_metadata
from services.stripe_sim.periods import next_boundary
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

TRIAL_SECONDS_MAX = 2 * 366 * 86_400

PRORATIONS = ("always_invoice", "create_prorations", "none")

_PLAIN = (
    "cancel_at",
    "cancel_at_period_end",
    "collection_method",
    "days_until_due",
    "default_payment_method",
    "description",
    "default_tax_rates",
    "pause_collection",
)


def update(scope: Scope, subscription: Obj, fields: dict[str, Any]) -> Obj:
    """Change a subscription; changed prices and quantities are prorated to the second.

    `proration_behavior`: `create_prorations` (default: pending items, billed with the next
    invoice), `always_invoice` (billed now) or `none`.

    Raises:
        ApiError: it has ended, the prices do not fit, or the payment failed where
            `payment_behavior` is `error_if_incomplete`.
    """
    if subscription["status"] not in subs.ALIVE:
        raise invalid(
            "This subscription has been canceled and cannot be changed.", "id", "resource_missing"
        )
    now = scope.now(subscription["test_clock"])
    before = _snapshot(subscription)
    _change_plain(scope, subscription, fields, now)
    behavior = fields.get("proration_behavior") or "create_prorations"
    anew = _change_items(scope, subscription, fields, behavior, now)
    scope.save(subscription)
    invoice = None
    if anew or behavior == "always_invoice":
        invoice = _invoice_now(scope, subscription, full_period=anew)
    previous = {name: value for name, value in before.items() if subscription[name] != value}
    if previous:
        emit(scope, "customer.subscription.updated", subscription, previous)
    if invoice is not None:
        emit(scope, "invoice.created", invoice)
        _collect(scope, invoice, fields.get("payment_behavior"))
    return subscription


def _snapshot(subscription: Obj) -> dict[str, Any]:
    names = (
        *_PLAIN,
        "metadata",
        "status",
        "trial_end",
        "billing_cycle_anchor",
        "canceled_at",
        "discounts",
        "latest_invoice",
    )
    items = [dict(item) for item in subscription["items"]["data"]]
    return {name: subscription[name] for name in names} | {
        "items": {**subscription["items"], "data": items}
    }


def _change_plain(scope: Scope, subscription: Obj, fields: dict[str, Any], now: int) -> None:
    for name in _PLAIN:
        if name in fields:
            subscription[name] = fields[name]
    if "metadata" in fields:
        subscription["metadata"] = merge_metadata(subscription["metadata"], fields["metadata"])
    if fields.get("cancellation_details"):
        details = {**subscription["cancellation_details"], **fields["cancellation_details"]}
        subscription["cancellation_details"] = details
    leaving = subscription["cancel_at_period_end"] or subscription["cancel_at"] is not None
    subscription["canceled_at"] = (subscription["canceled_at"] or now) if leaving else None
    reason = "cancellation_requested" if leaving else None
    subscription["cancellation_details"] = {
        **subscription["cancellation_details"],
        "reason": reason,
    }
    if "redeems" in fields:
        subscription["discounts"] = []
        for coupon, promotion in fields["redeems"]:
            renewals.give_discount(scope, subscription, coupon, promotion)


def _change_items(
    scope: Scope, subscription: Obj, fields: dict[str, Any], behavior: str, now: int
) -> bool:
    """Apply item, trial and anchor changes; return whether a new period begins now."""
    start, end = subs.period_of(subscription)
    old_interval = subs.interval_of(subscription)
    was_trial = subscription["status"] == "trialing"
    at = min(max(fields.get("proration_date") or now, start), end)
    wishes = fields.get("items") or []
    prorate = behavior != "none" and not was_trial and end > start
    for wish in wishes:
        _change_item(scope, subscription, wish, (at, start, end), prorate=prorate)
    interval, count = subs.check_prices([item["price"] for item in subscription["items"]["data"]])
    anew = (interval, count) != old_interval or fields.get("billing_cycle_anchor") == "now"
    if fields.get("trial_end") is not None:
        anew = _change_trial(subscription, fields["trial_end"], now) or anew
    if anew and subscription["status"] != "trialing":
        subscription["billing_cycle_anchor"] = now
        if prorate:
            _take_back_debits(scope, subscription, at)
        new_end = next_boundary(now, interval, count, now)
        subs.set_period(subscription, now, new_end)
        return True
    return False


def _change_trial(subscription: Obj, trial_end: str, now: int) -> bool:
    """Move the end of the trial; return whether it ends now."""
    if trial_end == "now":
        if subscription["status"] != "trialing":
            return False
        subscription |= {"status": "active", "trial_end": now}
        return True
    end = int(trial_end) if trial_end.isascii() and trial_end.isdigit() else 0
    if not now < end < now + TRIAL_SECONDS_MAX:
        raise invalid("The `trial_end` must be in the future, by two years at most.", "trial_end")
    subscription |= {
        "status": "trialing",
        "trial_end": end,
        "billing_cycle_anchor": end,
        "trial_start": subscription["trial_start"] or now,
    }
    subs.set_period(subscription, subs.period_of(subscription)[0], end)
    return False


def _change_item(
    scope: Scope,
    subscription: Obj,
    wish: dict[str, Any],
    span: tuple[int, int, int],
    *,
    prorate: bool,
) -> None:
    """Add, change or delete one item; credit what was paid ahead, charge what is new."""
    items = subscription["items"]["data"]
    item = next((each for each in items if each["id"] == wish.get("id")), None)
    if item is None:
        _add_item(scope, subscription, wish, span, prorate=prorate)
        return
    price = wish.get("price")
    same_price = price is None or price["id"] == item["price"]["id"]
    changes = not same_price or wish.get("quantity") not in (None, item.get("quantity"))
    if prorate and (changes or wish.get("deleted")):
        _prorate(scope, subscription, item, span, sign=-1)
    if wish.get("deleted"):
        items.remove(item)
        return
    if not same_price:
        _replace_price(scope, subscription, item, wish, span)
    elif wish.get("quantity") is not None and "quantity" in item:
        item["quantity"] = wish["quantity"]
    if "metadata" in wish:
        item["metadata"] = merge_metadata(item["metadata"], wish["metadata"])
    if wish.get("tax_rates") is not None:
        item["tax_rates"] = wish["tax_rates"]
    if prorate and changes:
        _prorate(scope, subscription, item, span, sign=1)


def _add_item(
    scope: Scope,
    subscription: Obj,
    wish: dict[str, Any],
    span: tuple[int, int, int],
    *,
    prorate: bool,
) -> None:
    if wish.get("id"):
        message = f"No such subscription item: '{wish['id']}'"
        raise invalid(message, "items[0][id]", "resource_missing")
    _at, start, end = span
    item = subs.add_item(scope, subscription, wish, start, end)
    if prorate:
        _prorate(scope, subscription, item, span, sign=1)


def _replace_price(
    scope: Scope, subscription: Obj, item: Obj, wish: dict[str, Any], span: tuple[int, int, int]
) -> None:
    """Give an item another price; it keeps its id and, unless told otherwise, its quantity."""
    _at, start, end = span
    quantity = item.get("quantity", 1) if wish.get("quantity") is None else wish["quantity"]
    fresh = subs.add_item(scope, subscription, {**wish, "quantity": quantity}, start, end)
    subscription["items"]["data"].remove(fresh)
    kept = {name: item[name] for name in ("id", "created", "metadata", "discounts", "tax_rates")}
    item.clear()
    item |= {**fresh, **kept}


def _prorate(
    scope: Scope, subscription: Obj, item: Obj, span: tuple[int, int, int], *, sign: int
) -> None:
    """Put the rest of the period at an item's price on a pending invoice item."""
    if "quantity" not in item:
        return
    at, start, end = span
    price = scope.get("price", item["price"]["id"])
    product = scope.get("product", price["product"])
    amount = money_rules.share(subs.price_amount(price, item["quantity"]), end - at, end - start)
    day = datetime.fromtimestamp(at, UTC).strftime("%d %b %Y")
    invoice_items.create(
        scope,
        scope.get("customer", subscription["customer"]),
        {
            "amount": sign * amount,
            "currency": price["currency"],
            "description": f"{'Remaining' if sign > 0 else 'Unused'} time on "
            f"{item['quantity']} x {product['name']} after {day}",
            "discountable": False,
            "period": {"start": at, "end": end},
            "price": price,
            "proration": True,
            "quantity": item["quantity"],
            "subscription": subscription["id"],
            "subscription_item": item["id"],
            "tax_rates": item["tax_rates"],
        },
    )


def _take_back_debits(scope: Scope, subscription: Obj, at: int) -> None:
    """Drop charges for the rest of a period that ends early: the new period bills in full."""
    for item in invoice_items.pending(scope, subscription["customer"], subscription["id"]):
        if item["proration"] and item["amount"] > 0 and item["period"]["start"] == at:
            invoice_items.delete(scope, item)


def _invoice_now(scope: Scope, subscription: Obj, *, full_period: bool) -> Obj | None:
    """Create the invoice of a change: pending prorations, and a new period where one begins."""
    start, end = subs.period_of(subscription)
    waiting = invoice_items.pending(scope, subscription["customer"], subscription["id"])
    if not full_period and not waiting:
        return None
    now = scope.now(subscription["test_clock"])
    invoice = collection.start_invoice(
        scope, subscription, "subscription_update", auto_advance=True, period=(now, now)
    )
    for item in waiting:
        if item["currency"] == invoice["currency"]:
            invoice_items.put_on(scope, item, invoice)
    if full_period:
        subs.bill_period(scope, invoice, subscription, start, end)
    return invoice


def _collect(scope: Scope, invoice: Obj, payment_behavior: str | None) -> None:
    invoices.finalize(scope, invoice)
    if invoice["status"] == "paid":
        collection.invoice_settled(scope, invoice)
        return
    if invoice["collection_method"] != "charge_automatically":
        emit(scope, "invoice.sent", invoice)
        return
    if payment_behavior == "default_incomplete":
        return
    decline = collection.collect(scope, invoice)
    if decline is not None and payment_behavior == "error_if_incomplete":
        decline.keeps_effects = False
        raise decline


def pause(scope: Scope, subscription: Obj) -> Obj:
    """Pause a subscription: no period begins until it is resumed.

    Raises:
        ApiError: it is not active.
    """
    if subscription["status"] not in ("active", "past_due", "trialing"):
        raise invalid(f"A subscription that is {subscription['status']} cannot be paused.", "id")
    _set_paused(scope, subscription, "pause_requested")
    return subscription


def _set_paused(scope: Scope, subscription: Obj, reason: str) -> None:
    now = scope.now(subscription["test_clock"])
    subscription["status_details"] = {
        "paused": {"subscription": {"type": reason}, "transitioned_at": now, "type": "subscription"}
    }
    subs.set_status(scope, subscription, "paused")
    emit(scope, "customer.subscription.paused", subscription)


def resume(scope: Scope, subscription: Obj, *, keep_anchor: bool) -> Obj:
    """Resume a paused subscription; unless the anchor stays, a new period begins and is billed.

    Raises:
        ApiError: it is not paused.
    """
    if subscription["status"] != "paused":
        raise invalid("Only a paused subscription can be resumed.", "id")
    subscription.pop("status_details", None)
    now = scope.now(subscription["test_clock"])
    start, end = subs.period_of(subscription)
    interval, count = subs.interval_of(subscription)
    inside = keep_anchor and start <= now < end
    if not inside:
        if not keep_anchor:
            subscription["billing_cycle_anchor"] = now
        anchor = subscription["billing_cycle_anchor"]
        subs.set_period(subscription, now, next_boundary(anchor, interval, count, now))
    subs.set_status(scope, subscription, "active")
    emit(scope, "customer.subscription.resumed", subscription)
    if not inside:
        invoice = _invoice_now(scope, subscription, full_period=True)
        assert invoice is not None
        emit(scope, "invoice.created", invoice)
        _collect(scope, invoice, None)
    return subscription


def credit_unused(scope: Scope, subscription: Obj) -> None:
    """Put what was paid ahead on pending credits, for a subscription that ends now."""
    start, end = subs.period_of(subscription)
    at = min(max(scope.now(subscription["test_clock"]), start), end)
    if subscription["status"] != "trialing" and end > start:
        for item in subscription["items"]["data"]:
            _prorate(scope, subscription, item, (at, start, end), sign=-1)


def final_invoice(scope: Scope, subscription: Obj) -> None:
    """Bill what is pending of a subscription that ended."""
    invoice = _invoice_now(scope, subscription, full_period=False)
    if invoice is not None:
        emit(scope, "invoice.created", invoice)
        _collect(scope, invoice, None)


def remove_discounts(scope: Scope, subscription: Obj) -> None:
    """Take all discounts off a subscription."""
    for discount_id in discounts.current(scope, subscription, 0):
        emit(scope, "customer.discount.deleted", scope.get("discount", discount_id))
    subscription["discounts"] = []
    scope.save(subscription)
