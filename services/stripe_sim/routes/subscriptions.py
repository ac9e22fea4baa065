"""/v1/subscriptions and /v1/subscription_items."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import customers, renewals, subscriptions
from services.stripe_sim.params import (
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
)
from services.stripe_sim.render import page
from services.stripe_sim.routes.prices import PRICE_DATA, price_for
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

ITEM: Schema = {"price": str, "price_data": PRICE_DATA, "quantity": int, "metadata": METADATA}

_STATUSES = (
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
)

CREATE: Schema = {
    "application_fee_percent": Decimal,
    "automatic_tax": ANY,
    "billing_cycle_anchor": int,
    "billing_mode": ANY,
    "cancel_at": int,
    "cancel_at_period_end": bool,
    "collection_method": ("charge_automatically", "send_invoice"),
    "currency": str,
    "customer": Required(str),
    "days_until_due": int,
    "default_payment_method": str,
    "description": str,
    "items": [ITEM],
    "metadata": METADATA,
    "off_session": bool,
    "on_behalf_of": str,
    "payment_behavior": ("allow_incomplete", "default_incomplete", "error_if_incomplete"),
    "payment_settings": ANY,
    "proration_behavior": ("always_invoice", "create_prorations", "none"),
    "trial_end": str,
    "trial_period_days": int,
    "trial_settings": ANY,
}


def item_wishes(scope: Scope, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Resolve the price of each item, creating what `price_data` describes."""
    wishes = []
    for place, item in enumerate(items):
        if item.get("price_data"):
            price = price_for(scope, item["price_data"])
        else:
            price = scope.get("price", item.get("price") or "", f"items[{place}][price]")
        wishes.append({**item, "price": price})
    return wishes


@endpoint("POST", "/v1/subscriptions", CREATE)
def create_subscription(scope: Scope, params: Params) -> Obj:
    """Create a subscription and try to collect its first invoice."""
    customer = customers.living(scope, params["customer"], "customer")
    fields = {**params, "items": item_wishes(scope, params.get("items") or [])}
    if params.get("default_payment_method"):
        method = renewals.use_method(scope, customer, params["default_payment_method"])
        fields["default_payment_method"] = method["id"]
    return renewals.subscribe(scope, customer, fields)


@endpoint("GET", "/v1/subscriptions/{}")
def retrieve_subscription(scope: Scope, _params: Params, subscription_id: str) -> Obj:
    """Return a subscription."""
    return scope.get("subscription", subscription_id)


@endpoint(
    "GET",
    "/v1/subscriptions",
    {
        **LIST_PARAMS,
        "collection_method": ("charge_automatically", "send_invoice"),
        "created": CREATED,
        "customer": str,
        "price": str,
        "status": _STATUSES,
        "test_clock": str,
    },
)
def list_subscriptions(scope: Scope, params: Params) -> Obj:
    """List subscriptions that have not been canceled, or those of a status."""
    found = scope.all(
        "subscription",
        customer=params.get("customer"),
        collection_method=params.get("collection_method"),
        test_clock=params.get("test_clock"),
    )
    if not params.get("customer") and not params.get("test_clock"):
        found = [subscription for subscription in found if subscription["test_clock"] is None]
    status = params.get("status")
    if status is None:
        found = [each for each in found if each["status"] != "canceled"]
    elif status == "ended":
        found = [each for each in found if each["status"] in ("canceled", "incomplete_expired")]
    elif status != "all":
        found = [each for each in found if each["status"] == status]
    if params.get("price"):
        found = [
            each
            for each in found
            if any(item["price"]["id"] == params["price"] for item in each["items"]["data"])
        ]
    return page(scope, found, params, "/v1/subscriptions")


@endpoint(
    "DELETE",
    "/v1/subscriptions/{}",
    {
        "cancellation_details": {"comment": str, "feedback": str},
        "invoice_now": bool,
        "prorate": bool,
    },
)
def cancel_subscription(scope: Scope, params: Params, subscription_id: str) -> Obj:
    """End a subscription now."""
    subscription = scope.get("subscription", subscription_id)
    details = params.get("cancellation_details") or {}
    return subscriptions.cancel(scope, subscription, "cancellation_requested", details)
