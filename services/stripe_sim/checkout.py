"""Checkout sessions: a page on which a payer pays once or starts a subscription."""

from typing import Any

from services.stripe_sim import discounts, money, subscriptions, taxes
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.render import on_request
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

KIND = "checkout.session"


_UNSET = (
    "adaptive_pricing",
    "after_expiration",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "invoice",
    "origin_context",
    "payment_intent",
    "payment_method_configuration_details",
    "permissions",
    "recovered_from",
    "redirect_on_completion",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "subscription",
    "total_details",
    "wallet_options",
)
"""Fields of a session that are null until something sets them."""


def build(scope: Scope, fields: dict[str, Any], lines: list[dict[str, Any]]) -> Obj:
    """Open a session for lines of (price, quantity, metadata).

    Raises:
        ApiError: mode and prices do not fit.
    """
    mode = fields["mode"]
    _check_lines(mode, lines)
    now = scope.wall_now()
    customer = scope.find("customer", fields.get("customer"))
    currency = lines[0]["price"]["currency"] if lines else fields.get("currency")
    session_id = "cs_test_a1" + scope.new_id("", 56)
    session: Obj = {
        "id": session_id,
        "object": KIND,
        **dict.fromkeys(_UNSET),
        "allow_promotion_codes": fields.get("allow_promotion_codes"),
        "amount_subtotal": 0,
        "amount_total": 0,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": fields.get("billing_address_collection"),
        "cancel_url": fields.get("cancel_url"),
        "client_reference_id": fields.get("client_reference_id"),
        "created": now,
        "currency": currency,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": customer["id"] if customer else None,
        "customer_creation": _customer_creation(fields, mode),
        "customer_details": customer_details(customer, fields),
        "customer_email": fields.get("customer_email"),
        "discounts": [
            {"coupon": wish["coupon"], "promotion_code": wish["promotion_code"]}
            for wish in fields.get("redeems") or []
        ],
        "expires_at": fields.get("expires_at") or now + DAY_SECONDS,
        "invoice_creation": _invoice_creation() if mode == "payment" else None,
        "livemode": False,
        "locale": fields.get("locale"),
        "metadata": fields.get("metadata") or {},
        "mode": mode,
        "payment_link": fields.get("payment_link"),
        "payment_method_collection": fields.get("payment_method_collection")
        or ("always" if mode == "subscription" else None),
        "payment_method_options": {},
        "payment_method_types": fields.get("payment_method_types") or ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "submit_type": fields.get("submit_type"),
        "success_url": fields.get("success_url"),
        "ui_mode": "hosted_page",
        "url": f"{scope.sandbox.settings.public_url}/checkout/{session_id}",
        "_sim": _private(scope, fields, lines),
    }
    _add_up(scope, session)
    return scope.save(session)


def _private(scope: Scope, fields: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the sandbox keeps of a session for itself."""
    return {
        "lines": [
            {
                "id": scope.new_id("li_1"),
                "price": line["price"]["id"],
                "quantity": line["quantity"],
                "metadata": line.get("metadata") or {},
                "tax_rates": line.get("tax_rates") or [],
            }
            for line in lines
        ],
        "discounts": fields.get("redeems") or [],
        "subscription_data": _kept(fields.get("subscription_data") or {}),
        "payment_intent_data": fields.get("payment_intent_data") or {},
        "method": None,
    }


def _invoice_creation() -> dict[str, Any]:
    names = ("account_tax_ids", "custom_fields", "description", "footer", "issuer")
    data: dict[str, Any] = {**dict.fromkeys(names), "metadata": {}, "rendering_options": None}
    return {"enabled": False, "invoice_data": data}


def _kept(data: dict[str, Any]) -> dict[str, Any]:
    """Return subscription data as it can be stored: decimals as text."""
    rate = data.get("application_fee_percent")
    return data if rate is None else {**data, "application_fee_percent": str(rate)}


def _check_lines(mode: str, lines: list[dict[str, Any]]) -> None:
    if mode == "setup":
        return
    if not lines:
        raise invalid("Missing required param: line_items.", "line_items", "parameter_missing")
    recurring = [line["price"] for line in lines if line["price"]["type"] == "recurring"]
    if mode == "subscription":
        if not recurring:
            raise invalid(
                "You must provide at least one recurring price in `subscription` mode when using "
                "prices.",
                "line_items",
            )
        subscriptions.check_prices(recurring)
    elif recurring:
        raise invalid(
            "You specified `payment` mode but passed a recurring price. Either switch to "
            "`subscription` mode or use only one-time prices.",
            "line_items",
        )
    if len({line["price"]["currency"] for line in lines}) > 1:
        raise invalid("All line items must have the same currency.", "line_items")


def amounts_of(scope: Scope, session: Obj) -> list[dict[str, Any]]:
    """Return (subtotal, discount, taxes) of each line, as the payment will come to."""
    lines = session["_sim"]["lines"]
    subtotals = [line_amount(scope.get("price", each["price"]), each) for each in lines]
    off = [0] * len(lines)
    for wish in session["_sim"]["discounts"]:
        coupon = scope.get("coupon", wish["coupon"])
        left = [subtotal - taken for subtotal, taken in zip(subtotals, off, strict=True)]
        parts = discounts.split(coupon, left)
        off = [taken + part for taken, part in zip(off, parts, strict=True)]
    customer = scope.find("customer", session["customer"])
    exempt = customer["tax_exempt"] if customer else "none"
    found = []
    for line, subtotal, taken in zip(lines, subtotals, off, strict=True):
        rates = line["tax_rates"] or session["_sim"]["subscription_data"].get("tax_rates") or []
        charged = taxes.taxes_of(subtotal - taken, rates, exempt)
        found.append({"subtotal": subtotal, "discount": taken, "taxes": charged})
    return found


def line_amount(price: Obj, line: dict[str, Any]) -> int:
    """Return what a line costs now; what is metered costs nothing yet."""
    if (price["recurring"] or {}).get("usage_type") == "metered":
        return 0
    return subscriptions.price_amount(price, line["quantity"])


def _add_up(scope: Scope, session: Obj) -> None:
    """Set a session's amounts; a trial costs nothing now."""
    lines = amounts_of(scope, session)
    trial = session["_sim"]["subscription_data"].get("trial_period_days")
    subtotal = 0 if trial else sum(line["subtotal"] for line in lines)
    off = 0 if trial else sum(line["discount"] for line in lines)
    all_taxes = [] if trial else [tax for line in lines for tax in line["taxes"]]
    session |= {
        "amount_subtotal": subtotal,
        "amount_total": subtotal - off + taxes.added(all_taxes),
        "total_details": {
            "amount_discount": off,
            "amount_shipping": 0,
            "amount_tax": sum(tax["amount"] for tax in all_taxes),
        },
    }


def _customer_creation(fields: dict[str, Any], mode: str) -> str | None:
    if fields.get("customer"):
        return None
    return fields.get("customer_creation") or (
        "always" if mode == "subscription" else "if_required"
    )


def customer_details(customer: Obj | None, fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a session knows of its payer, or None: nothing yet."""
    email = (customer or {}).get("email") or fields.get("customer_email")
    if customer is None and email is None:
        return None
    return {
        "address": (customer or {}).get("address"),
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": (customer or {}).get("name"),
        "phone": (customer or {}).get("phone"),
        "tax_exempt": (customer or {}).get("tax_exempt", "none"),
        "tax_ids": [],
    }


def line_items(scope: Scope, session: Obj) -> list[Obj]:
    """Return what is sold, as the API lists it."""
    items = []
    pairs = zip(session["_sim"]["lines"], amounts_of(scope, session), strict=True)
    for line, amounts in pairs:
        price = scope.get("price", line["price"])
        items.append(
            {
                "id": line["id"],
                "object": "item",
                "amount_discount": amounts["discount"],
                "amount_subtotal": amounts["subtotal"],
                "amount_tax": sum(tax["amount"] for tax in amounts["taxes"]),
                "amount_total": amounts["subtotal"]
                - amounts["discount"]
                + taxes.added(amounts["taxes"]),
                "currency": price["currency"],
                "description": scope.get("product", price["product"])["name"],
                "metadata": line["metadata"],
                "price": {name: value for name, value in price.items() if name != "_sim"},
                "quantity": line["quantity"],
            }
        )
    return items


def require_open(scope: Scope, session: Obj) -> None:
    """Refuse a session that is complete or has expired.

    Raises:
        ApiError: it is not open.
    """
    if session["status"] == "open" and session["expires_at"] <= scope.wall_now():
        expire(scope, session)
    if session["status"] != "open":
        raise invalid(f"This Checkout Session is {session['status']}.", "session")


def expire(scope: Scope, session: Obj) -> Obj:
    """Close a session unpaid."""
    session |= {"status": "expired", "url": None}
    scope.save(session)
    emit(scope, "checkout.session.expired", session)
    return session


def success_url(session: Obj) -> str | None:
    """Return where the payer goes after paying."""
    url: str | None = session["success_url"]
    return url.replace("{CHECKOUT_SESSION_ID}", session["id"]) if url else None


def describe(scope: Scope, session: Obj) -> dict[str, Any]:
    """Return what the hosted page shows."""
    items = line_items(scope, session)
    return {
        "session": session,
        "account": scope.own_account["settings"]["dashboard"]["display_name"],
        "lines": [
            {
                "description": item["description"],
                "quantity": item["quantity"],
                "amount": money.shown(item["amount_total"], item["currency"]),
                "interval": (item["price"]["recurring"] or {}).get("interval"),
            }
            for item in items
        ],
        "total": money.shown(session["amount_total"], session["currency"] or "usd"),
        "email": (session["customer_details"] or {}).get("email") or "",
    }


@on_request(KIND, "line_items")
def _line_items(scope: Scope, session: Obj) -> Obj:
    return {
        "object": "list",
        "data": line_items(scope, session),
        "has_more": False,
        "url": f"/v1/checkout/sessions/{session['id']}/line_items",
    }
