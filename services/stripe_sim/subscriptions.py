"""Subscriptions: their items, periods and status."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import invoice_totals, invoices, money
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS, HOUR_SECONDS, next_boundary
from services.stripe_sim.render import listing
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

INCOMPLETE_SECONDS = 23 * HOUR_SECONDS
"""An incomplete subscription expires this long after its creation."""

ITEMS_MAX = 20
ALIVE = ("incomplete", "trialing", "active", "past_due", "unpaid", "paused")


_UNSET = (
    "application",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "canceled_at",
    "default_source",
    "ended_at",
    "latest_invoice",
    "next_pending_invoice_item_invoice",
    "pause_collection",
    "pending_invoice_item_interval",
    "pending_setup_intent",
    "pending_update",
    "schedule",
    "transfer_data",
)
"""Fields of a subscription that are null until something sets them."""


def build(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Create a subscription; `fields["items"]` holds (price, quantity, metadata) hashes.

    It is `trialing` during a trial and `incomplete` otherwise; the first payment makes it active.

    Raises:
        ApiError: its prices do not fit together.
    """
    now = scope.now(customer["test_clock"])
    prices = [wish["price"] for wish in fields["items"]]
    interval, count = check_prices(prices)
    trial_end = _trial_end(fields, now)
    anchor = trial_end or fields.get("billing_cycle_anchor") or now
    subscription_id = scope.new_id("sub_1")
    subscription: Obj = {
        "id": subscription_id,
        "object": "subscription",
        **dict.fromkeys(_UNSET),
        "application_fee_percent": _number(fields.get("application_fee_percent")),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "cancel_at": fields.get("cancel_at"),
        "cancel_at_period_end": bool(fields.get("cancel_at_period_end")),
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": fields.get("collection_method") or "charge_automatically",
        "created": now,
        "currency": prices[0]["currency"],
        "customer": customer["id"],
        "days_until_due": fields.get("days_until_due"),
        "default_payment_method": fields.get("default_payment_method"),
        "default_tax_rates": fields.get("default_tax_rates") or [],
        "description": fields.get("description"),
        "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": listing(f"/v1/subscription_items?subscription={subscription_id}", []),
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "on_behalf_of": fields.get("on_behalf_of"),
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": (fields.get("payment_settings") or {}).get(
                "save_default_payment_method"
            )
            or "off",
        },
        "start_date": now,
        "status": "trialing" if trial_end else "incomplete",
        "test_clock": customer["test_clock"],
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": _without_method(fields)}},
        "trial_start": now if trial_end else None,
        "_sim": {"session": fields.get("session")},
    }
    period_end = trial_end or next_boundary(anchor, interval, count, now)
    for wish in fields["items"]:
        add_item(scope, subscription, wish, now, period_end)
    if customer["currency"] is None:
        customer["currency"] = subscription["currency"]
        scope.save(customer)
    return scope.save(subscription)


def _number(rate: Decimal | None) -> float | None:
    """Return a percentage as the JSON number Stripe sends."""
    return None if rate is None else float(rate)


def _trial_end(fields: dict[str, Any], now: int) -> int | None:
    if fields.get("trial_end") == "now":
        return None
    if fields.get("trial_end"):
        text = str(fields["trial_end"])
        end = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
        if end <= now:
            raise invalid("The `trial_end` must be in the future.", "trial_end")
        return end
    days = fields.get("trial_period_days")
    return now + days * DAY_SECONDS if days else None


def _without_method(fields: dict[str, Any]) -> str:
    behavior = (fields.get("trial_settings") or {}).get("end_behavior") or {}
    return behavior.get("missing_payment_method") or "create_invoice"


def check_prices(prices: list[Obj]) -> tuple[str, int]:
    """Return the (interval, count) all prices of a subscription share.

    Raises:
        ApiError: there is none, one is not recurring, or they differ in interval or currency.
    """
    if not 1 <= len(prices) <= ITEMS_MAX:
        raise invalid(f"A subscription has 1 to {ITEMS_MAX} items.", "items")
    for price in prices:
        if price["type"] != "recurring":
            raise invalid(
                "The price specified is set to `type=one_time` but this field only accepts prices "
                "with `type=recurring`.",
                "items[0][price]",
            )
        if not price["active"]:
            raise invalid("The price specified is inactive.", "items[0][price]")
    shapes = {
        (price["recurring"]["interval"], price["recurring"]["interval_count"], price["currency"])
        for price in prices
    }
    if len(shapes) > 1:
        raise invalid(
            "Currency and interval fields must match across all prices of a subscription.",
            "items",
        )
    interval, count, _ = shapes.pop()
    return interval, count


def interval_of(subscription: Obj) -> tuple[str, int]:
    """Return the (interval, count) of a subscription's prices."""
    recurring = subscription["items"]["data"][0]["price"]["recurring"]
    return recurring["interval"], recurring["interval_count"]


def add_item(scope: Scope, subscription: Obj, wish: dict[str, Any], start: int, end: int) -> Obj:
    """Add an item for a price to a subscription."""
    price = wish["price"]
    metered = price["recurring"]["usage_type"] == "metered"
    item: Obj = {
        "id": scope.new_id("si_", 14),
        "object": "subscription_item",
        "billed_until": None,
        "billing_thresholds": None,
        "created": scope.now(subscription["test_clock"]),
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": wish.get("metadata") or {},
        "plan": plan_of(price),
        "price": {name: value for name, value in price.items() if name not in ("_sim", "tiers")},
        "subscription": subscription["id"],
        "tax_rates": wish.get("tax_rates") or [],
    }
    if not metered:
        item["quantity"] = 1 if wish.get("quantity") is None else wish["quantity"]
    subscription["items"]["data"].append(item)
    return item


def plan_of(price: Obj) -> Obj:
    """Return the old-style plan that Stripe still shows beside a recurring price."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": False,
        "metadata": dict(price["metadata"]),
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }


def period_of(subscription: Obj) -> tuple[int, int]:
    """Return the current period [start, end) of a subscription."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def set_period(subscription: Obj, start: int, end: int) -> None:
    """Move all items to a period."""
    for item in subscription["items"]["data"]:
        item |= {"current_period_start": start, "current_period_end": end}


def bill_period(scope: Scope, invoice: Obj, subscription: Obj, start: int, end: int) -> None:
    """Add a line for every licensed item: the period in advance, or a trial for nothing."""
    trial = subscription["status"] == "trialing"
    for item in subscription["items"]["data"]:
        if "quantity" not in item:
            continue
        price = scope.get("price", item["price"]["id"])
        product = scope.get("product", price["product"])
        amount = 0 if trial else price_amount(price, item["quantity"])
        label = (
            f"Trial period for {product['name']}"
            if trial
            else f"{item['quantity']} x {product['name']} "
            f"({money.shown(price['unit_amount'] or 0, price['currency'])}"
            f" / {price['recurring']['interval']})"
        )
        invoice_totals.add_line(
            scope,
            invoice,
            {
                "amount": amount,
                "description": label,
                "metadata": dict(subscription["metadata"]),
                "period": {"start": start, "end": end},
                "pricing": invoice_totals.pricing_of(price),
                "quantity": item["quantity"],
                "subscription": subscription["id"],
                "tax_rates": item["tax_rates"],
                "parent": item_parent(subscription, item),
            },
        )


def item_parent(subscription: Obj, item: Obj, *, proration: bool = False) -> dict[str, Any]:
    """Return the `parent` of a line that comes from a subscription item."""
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": None,
            "proration": proration,
            "proration_details": {"credited_items": None},
            "subscription": subscription["id"],
            "subscription_item": item["id"],
        },
        "type": "subscription_item_details",
    }


def price_amount(price: Obj, quantity: int) -> int:
    """Return what a quantity costs, rounded half up to the minor unit."""
    if price["billing_scheme"] == "tiered":
        return _tiered_amount(price, quantity)
    transform = price["transform_quantity"]
    if transform:
        whole, rest = divmod(quantity, transform["divide_by"])
        quantity = whole + (1 if rest and transform["round"] == "up" else 0)
    return money.half_up(Decimal(price["unit_amount_decimal"]) * quantity)


def _tiered_amount(price: Obj, quantity: int) -> int:
    total, below = Decimal(0), 0
    for tier in price["_sim"]["tiers"]:
        top = tier["up_to"]
        inside = top is None or quantity <= top
        if price["tiers_mode"] == "volume":
            counted = quantity if inside else 0
        else:
            counted = max((quantity if inside else top) - below, 0)
        if counted or (inside and quantity == 0):
            total += Decimal(tier["unit_amount_decimal"] or 0) * counted
            total += Decimal(tier["flat_amount_decimal"] or 0)
        if inside:
            break
        below = top
    return money.half_up(total)


def set_status(scope: Scope, subscription: Obj, status: str, **changes: Any) -> None:
    """Change status and other fields, and say so once where anything did change."""
    changes = {"status": status, **changes}
    previous = {
        name: subscription[name] for name, value in changes.items() if subscription[name] != value
    }
    if previous:
        subscription |= changes
        scope.save(subscription)
        emit(scope, "customer.subscription.updated", subscription, previous)


def cancel(scope: Scope, subscription: Obj, reason: str | None, details: dict[str, Any]) -> Obj:
    """End a subscription now.

    Raises:
        ApiError: it has ended already.
    """
    if subscription["status"] not in ALIVE:
        raise invalid("This subscription has been canceled and cannot be changed.", "id")
    now = scope.now(subscription["test_clock"])
    subscription |= {
        "status": "canceled",
        "canceled_at": subscription["canceled_at"] or now,
        "ended_at": now,
        "cancel_at_period_end": False,
        "cancellation_details": {
            "comment": details.get("comment"),
            "feedback": details.get("feedback"),
            "reason": reason,
        },
    }
    scope.save(subscription)
    for invoice in scope.all("invoice", status="draft"):
        if invoices.subscription_of(invoice) == subscription["id"]:
            invoice |= {
                "auto_advance": False,
                "automatically_finalizes_at": None,
                "next_payment_attempt": None,
            }
            scope.save(invoice)
    emit(scope, "customer.subscription.deleted", subscription)
    return subscription
