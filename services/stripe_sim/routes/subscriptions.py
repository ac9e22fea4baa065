"""/v1/subscriptions and /v1/subscription_items."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import (
    customers,
    discounts,
    renewals,
    subscription_changes,
    subscriptions,
    taxes,
)
from services.stripe_sim.params import (
    ANY,
    AUTOMATIC_TAX,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routes.prices import PRICE_DATA, price_for
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

ITEM: Schema = {
    "price": str,
    "price_data": PRICE_DATA,
    "quantity": int,
    "metadata": METADATA,
    "tax_rates": [str],
}
DISCOUNT: Schema = {"coupon": str, "promotion_code": str, "discount": str}

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
    "automatic_tax": AUTOMATIC_TAX,
    "billing_cycle_anchor": int,
    "billing_mode": ANY,
    "cancel_at": int,
    "cancel_at_period_end": bool,
    "collection_method": ("charge_automatically", "send_invoice"),
    "currency": str,
    "customer": Required(str),
    "days_until_due": int,
    "default_payment_method": str,
    "default_tax_rates": [str],
    "description": str,
    "discounts": [DISCOUNT],
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


ITEM_CHANGE: Schema = {**ITEM, "id": str, "deleted": bool, "clear_usage": bool}

UPDATE: Schema = {
    "application_fee_percent": Decimal,
    "automatic_tax": AUTOMATIC_TAX,
    "billing_cycle_anchor": {"type": Required(("now", "unchanged"))},
    "cancel_at": int,
    "cancel_at_period_end": bool,
    "cancellation_details": {"comment": str, "feedback": str},
    "collection_method": ("charge_automatically", "send_invoice"),
    "days_until_due": int,
    "default_payment_method": str,
    "default_tax_rates": [str],
    "description": str,
    "discounts": [DISCOUNT],
    "items": [ITEM_CHANGE],
    "metadata": METADATA,
    "off_session": bool,
    "pause_collection": {
        "behavior": Required(("keep_as_draft", "mark_uncollectible", "void")),
        "resumes_at": int,
    },
    "payment_behavior": ("allow_incomplete", "default_incomplete", "error_if_incomplete"),
    "payment_settings": ANY,
    "proration_behavior": subscription_changes.PRORATIONS,
    "proration_date": int,
    "trial_end": str,
    "trial_settings": ANY,
}


def item_wishes(
    scope: Scope, items: list[dict[str, Any]], param: str = "items"
) -> list[dict[str, Any]]:
    """Resolve prices and tax rates of items; an item of a change may name neither.

    Raises:
        ApiError: a price, or a tax rate, does not exist.
    """
    wishes = []
    for place, item in enumerate(items):
        wish = dict(item)
        if item.get("price_data"):
            wish["price"] = price_for(scope, item["price_data"])
        elif item.get("price") or not item.get("id"):
            wish["price"] = scope.get("price", item.get("price") or "", f"{param}[{place}][price]")
        if item.get("tax_rates") is not None:
            wish["tax_rates"] = taxes.resolve(scope, item["tax_rates"], f"{param}[{place}]")
        wishes.append(wish)
    return wishes


def resolved(scope: Scope, params: Params) -> dict[str, Any]:
    """Return the parameters with items, tax rates, discounts and times as the domain takes them."""
    fields = {**params}
    if "items" in params:
        fields["items"] = item_wishes(scope, params["items"] or [])
    if "default_tax_rates" in params:
        fields["default_tax_rates"] = taxes.resolve(
            scope, params["default_tax_rates"], "default_tax_rates"
        )
    if "discounts" in params:
        fields["redeems"] = discounts.resolve(scope, params["discounts"])
    if isinstance(params.get("billing_cycle_anchor"), dict):
        fields["billing_cycle_anchor"] = params["billing_cycle_anchor"]["type"]
    if params.get("pause_collection"):
        fields["pause_collection"] = {"resumes_at": None, **params["pause_collection"]}
    return fields


@endpoint("POST", "/v1/subscriptions", CREATE)
def create_subscription(scope: Scope, params: Params) -> Obj:
    """Create a subscription and try to collect its first invoice."""
    customer = customers.living(scope, params["customer"], "customer")
    fields = {"items": [], **resolved(scope, params)}
    fields["metadata"] = merge_metadata({}, params.get("metadata", {}))
    if params.get("default_payment_method"):
        method = renewals.use_method(scope, customer, params["default_payment_method"])
        fields["default_payment_method"] = method["id"]
    return renewals.subscribe(scope, customer, fields)


@endpoint("POST", "/v1/subscriptions/{}", UPDATE)
def update_subscription(scope: Scope, params: Params, subscription_id: str) -> Obj:
    """Change a subscription, with proration of what was paid ahead."""
    subscription = scope.get("subscription", subscription_id)
    fields = resolved(scope, params)
    if params.get("default_payment_method"):
        customer = scope.get("customer", subscription["customer"])
        method = renewals.use_method(scope, customer, params["default_payment_method"])
        fields["default_payment_method"] = method["id"]
    return subscription_changes.update(scope, subscription, fields)


@endpoint(
    "POST",
    "/v1/subscriptions/{}/pause",
    {
        "bill_for": ANY,
        "invoicing_behavior": ("invoice", "pending_invoice_item"),
        "type": ("subscription",),
    },
)
def pause_subscription(scope: Scope, _params: Params, subscription_id: str) -> Obj:
    """Pause a subscription."""
    return subscription_changes.pause(scope, scope.get("subscription", subscription_id))


@endpoint(
    "POST",
    "/v1/subscriptions/{}/resume",
    {
        "billing_cycle_anchor": ANY,
        "payment_behavior": ("resume_on_payment_attempt", "resume_on_payment_success"),
        "proration_behavior": subscription_changes.PRORATIONS,
        "proration_date": int,
    },
)
def resume_subscription(scope: Scope, params: Params, subscription_id: str) -> Obj:
    """Resume a paused subscription."""
    anchor = params.get("billing_cycle_anchor")
    kind = anchor.get("type") if isinstance(anchor, dict) else anchor
    subscription = scope.get("subscription", subscription_id)
    return subscription_changes.resume(scope, subscription, keep_anchor=kind == "unchanged")


@endpoint("DELETE", "/v1/subscriptions/{}/discount")
def delete_subscription_discount(scope: Scope, _params: Params, subscription_id: str) -> Obj:
    """Take the discounts off a subscription."""
    subscription_changes.remove_discounts(scope, scope.get("subscription", subscription_id))
    return {"object": "discount", "deleted": True}


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
    if params.get("prorate"):
        subscription_changes.credit_unused(scope, subscription)
    subscriptions.cancel(scope, subscription, "cancellation_requested", details)
    if params.get("invoice_now"):
        subscription_changes.final_invoice(scope, subscription)
    return subscription
