"""/v1/checkout/sessions."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import checkout, customers, discounts, taxes
from services.stripe_sim.errors import invalid
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
from services.stripe_sim.routes.subscriptions import DISCOUNT
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_PATH = "/v1/checkout/sessions"

LINE_ITEM: Schema = {
    "adjustable_quantity": ANY,
    "metadata": METADATA,
    "price": str,
    "price_data": PRICE_DATA,
    "quantity": int,
    "tax_rates": [str],
}

_SUBSCRIPTION_DATA: Schema = {
    "application_fee_percent": Decimal,
    "billing_cycle_anchor": int,
    "billing_mode": ANY,
    "default_tax_rates": [str],
    "description": str,
    "metadata": METADATA,
    "on_behalf_of": str,
    "proration_behavior": ("create_prorations", "none"),
    "trial_end": str,
    "trial_period_days": int,
    "trial_settings": ANY,
}

PAYMENT_INTENT_DATA: Schema = {
    "application_fee_amount": int,
    "capture_method": ("automatic", "automatic_async", "manual"),
    "description": str,
    "metadata": METADATA,
    "on_behalf_of": str,
    "receipt_email": str,
    "setup_future_usage": ("off_session", "on_session"),
    "statement_descriptor": str,
    "statement_descriptor_suffix": str,
    "transfer_data": ANY,
    "transfer_group": str,
}

_CREATE: Schema = {
    "allow_promotion_codes": bool,
    "automatic_tax": AUTOMATIC_TAX,
    "billing_address_collection": ("auto", "required"),
    "cancel_url": str,
    "client_reference_id": str,
    "currency": str,
    "custom_text": ANY,
    "customer": str,
    "customer_creation": ("always", "if_required"),
    "customer_email": str,
    "customer_update": ANY,
    "discounts": [DISCOUNT],
    "expires_at": int,
    "invoice_creation": ANY,
    "line_items": [LINE_ITEM],
    "locale": str,
    "metadata": METADATA,
    "mode": Required(("payment", "setup", "subscription")),
    "payment_intent_data": PAYMENT_INTENT_DATA,
    "payment_method_collection": ("always", "if_required"),
    "payment_method_options": ANY,
    "payment_method_types": [str],
    "phone_number_collection": ANY,
    "saved_payment_method_options": ANY,
    "setup_intent_data": ANY,
    "submit_type": ("auto", "book", "donate", "pay", "subscribe"),
    "subscription_data": _SUBSCRIPTION_DATA,
    "success_url": str,
    "tax_id_collection": ANY,
    "ui_mode": ("hosted_page",),
}


def resolve_lines(scope: Scope, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Resolve the price of each line item, creating what `price_data` describes.

    Raises:
        ApiError: a price is missing or unknown, or a quantity is not positive.
    """
    lines = []
    for place, item in enumerate(items):
        if item.get("price_data"):
            price = price_for(scope, item["price_data"])
        else:
            price = scope.get("price", item.get("price") or "", f"line_items[{place}][price]")
        if not price["active"]:
            raise invalid("The price specified is inactive.", f"line_items[{place}][price]")
        quantity = 1 if item.get("quantity") is None else item["quantity"]
        if quantity < 1:
            raise invalid(
                "This value must be greater than or equal to 1.",
                f"line_items[{place}][quantity]",
                "parameter_invalid_integer",
            )
        rates = taxes.resolve(scope, item.get("tax_rates"), f"line_items[{place}][tax_rates]")
        lines.append(
            {
                "price": price,
                "quantity": quantity,
                "metadata": item.get("metadata"),
                "tax_rates": rates,
            }
        )
    return lines


@endpoint("POST", _PATH, _CREATE)
def create_session(scope: Scope, params: Params) -> Obj:
    """Open a checkout session."""
    if params.get("customer") and params.get("customer_email"):
        raise invalid("You may only specify one of these parameters: customer, customer_email.")
    if params.get("customer"):
        customers.living(scope, params["customer"], "customer")
    if not params.get("success_url"):
        raise invalid("Missing required param: success_url.", "success_url", "parameter_missing")
    if params["mode"] != "subscription" and params.get("subscription_data"):
        raise invalid(
            "You can not pass `subscription_data` in `payment` mode.", "subscription_data"
        )
    if params["mode"] != "payment" and params.get("payment_intent_data"):
        raise invalid(
            "You can not pass `payment_intent_data` in `subscription` mode.", "payment_intent_data"
        )
    lines = resolve_lines(scope, params.get("line_items") or [])
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    if params.get("discounts"):
        if len(params["discounts"]) > 1:
            raise invalid("Checkout takes one discount at most.", "discounts")
        fields["redeems"] = [
            {"coupon": coupon["id"], "promotion_code": promotion["id"] if promotion else None}
            for coupon, promotion in discounts.resolve(scope, params["discounts"])
        ]
    data = params.get("subscription_data") or {}
    if data.get("default_tax_rates"):
        rates = taxes.resolve(scope, data["default_tax_rates"], "subscription_data")
        fields["subscription_data"] = {**data, "tax_rates": rates}
    return checkout.build(scope, fields, lines)


@endpoint("GET", _PATH + "/{}")
def retrieve_session(scope: Scope, _params: Params, session_id: str) -> Obj:
    """Return a checkout session."""
    return scope.get(checkout.KIND, session_id)


@endpoint("POST", _PATH + "/{}", {"metadata": METADATA})
def update_session(scope: Scope, params: Params, session_id: str) -> Obj:
    """Change a session's metadata."""
    session = scope.get(checkout.KIND, session_id)
    session["metadata"] = merge_metadata(session["metadata"], params.get("metadata", {}))
    return scope.save(session)


@endpoint(
    "GET",
    _PATH,
    {
        **LIST_PARAMS,
        "created": CREATED,
        "customer": str,
        "payment_intent": str,
        "payment_link": str,
        "status": ("complete", "expired", "open"),
        "subscription": str,
    },
)
def list_sessions(scope: Scope, params: Params) -> Obj:
    """List checkout sessions."""
    names = ("customer", "payment_intent", "payment_link", "status", "subscription")
    found = scope.all(checkout.KIND, **{name: params.get(name) for name in names})
    return page(scope, found, params, _PATH)


@endpoint("POST", _PATH + "/{}/expire")
def expire_session(scope: Scope, _params: Params, session_id: str) -> Obj:
    """Close an open session unpaid."""
    session = scope.get(checkout.KIND, session_id)
    checkout.require_open(scope, session)
    return checkout.expire(scope, session)


@endpoint("GET", _PATH + "/{}/line_items", LIST_PARAMS)
def list_session_line_items(scope: Scope, params: Params, session_id: str) -> Obj:
    """List what a session sells."""
    items = checkout.line_items(scope, scope.get(checkout.KIND, session_id))
    limit = params.get("limit") or 10
    return {
        "object": "list",
        "data": items[:limit],
        "has_more": len(items) > limit,
        "url": f"{_PATH}/{session_id}/line_items",
    }
