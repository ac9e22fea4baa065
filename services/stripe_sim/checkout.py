"""Checkout sessions: a page on which a payer pays once or starts a subscription."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import (
    cards,
    customers,
    money,
    payment_intents,
    payment_methods,
    renewals,
    subscriptions,
)
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.render import on_request
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

KIND = "checkout.session"


def build(scope: Scope, fields: dict[str, Any], lines: list[dict[str, Any]]) -> Obj:
    """Open a session for lines of (price, quantity, metadata).

    Raises:
        ApiError: mode and prices do not fit.
    """
    mode = fields["mode"]
    _check_lines(mode, lines)
    now = scope.wall_now()
    customer = scope.find("customer", fields.get("customer"))
    total = sum(_line_amount(line) for line in lines)
    currency = lines[0]["price"]["currency"] if lines else fields.get("currency")
    trial = (fields.get("subscription_data") or {}).get("trial_period_days")
    session_id = "cs_test_a1" + scope.new_id("", 56)
    session: Obj = {
        "id": session_id,
        "object": KIND,
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": fields.get("allow_promotion_codes"),
        "amount_subtotal": 0 if trial else total,
        "amount_total": 0 if trial else total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": fields.get("billing_address_collection"),
        "cancel_url": fields.get("cancel_url"),
        "client_reference_id": fields.get("client_reference_id"),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": now,
        "currency": currency,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": customer["id"] if customer else None,
        "customer_creation": _customer_creation(fields, mode),
        "customer_details": _customer_details(customer, fields),
        "customer_email": fields.get("customer_email"),
        "discounts": [],
        "expires_at": fields.get("expires_at") or now + DAY_SECONDS,
        "invoice": None,
        "invoice_creation": {"enabled": False} if mode == "payment" else None,
        "livemode": False,
        "locale": fields.get("locale"),
        "metadata": fields.get("metadata") or {},
        "mode": mode,
        "origin_context": None,
        "payment_intent": None,
        "payment_link": fields.get("payment_link"),
        "payment_method_collection": fields.get("payment_method_collection")
        or ("always" if mode == "subscription" else None),
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": fields.get("payment_method_types") or ["card"],
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "redirect_on_completion": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": fields.get("submit_type"),
        "subscription": None,
        "success_url": fields.get("success_url"),
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{scope.sandbox.settings.public_url}/checkout/{session_id}",
        "wallet_options": None,
        "_sim": {
            "lines": [
                {
                    "id": scope.new_id("li_1"),
                    "price": line["price"]["id"],
                    "quantity": line["quantity"],
                    "metadata": line.get("metadata") or {},
                }
                for line in lines
            ],
            "subscription_data": _kept(fields.get("subscription_data") or {}),
            "payment_intent_data": fields.get("payment_intent_data") or {},
            "method": None,
        },
    }
    return scope.save(session)


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


def _line_amount(line: dict[str, Any]) -> int:
    price = line["price"]
    if (price["recurring"] or {}).get("usage_type") == "metered":
        return 0
    return subscriptions.price_amount(price, line["quantity"])


def _customer_creation(fields: dict[str, Any], mode: str) -> str | None:
    if fields.get("customer"):
        return None
    return fields.get("customer_creation") or (
        "always" if mode == "subscription" else "if_required"
    )


def _customer_details(customer: Obj | None, fields: dict[str, Any]) -> dict[str, Any] | None:
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
    for line in session["_sim"]["lines"]:
        price = scope.get("price", line["price"])
        amount = _line_amount({"price": price, "quantity": line["quantity"]})
        items.append(
            {
                "id": line["id"],
                "object": "item",
                "amount_discount": 0,
                "amount_subtotal": amount,
                "amount_tax": 0,
                "amount_total": amount,
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


def pay(
    scope: Scope,
    session: Obj,
    card_number: str | None,
    *,
    email: str | None = None,
    name: str | None = None,
    authenticated: bool | None = None,
) -> Obj:
    """Pay an open session with a test card; afterwards it is complete.

    A card that wants the payer's bank first leaves it open with the card remembered: call again
    with `authenticated` set and without a card.

    Raises:
        ApiError: it is not open, the card is unknown or declined; then nothing has changed.
    """
    require_open(scope, session)
    method = _method(scope, session, card_number, email, name)
    card = payment_methods.card_of(method)
    if authenticated is False:
        session["_sim"]["method"] = None
        raise payment_methods.declined("authentication_required")
    if card is not None and card.authenticates != "never" and not authenticated:
        session["_sim"]["method"] = method["id"]
        return scope.save(session)
    _refuse_declined(card)
    customer = _customer(scope, session, email, name)
    if session["mode"] == "subscription":
        _pay_subscription(scope, session, customer, method, authenticated=bool(authenticated))
    elif session["mode"] == "payment":
        _pay_once(scope, session, customer, method, authenticated=bool(authenticated))
    else:
        _save_method(scope, customer, method)
        session["payment_status"] = "no_payment_required"
    session |= {"status": "complete", "url": None, "customer_email": session["customer_email"]}
    session["_sim"]["method"] = None
    details = session["customer_details"] or _customer_details(customer, {"customer_email": email})
    session["customer_details"] = {
        **(details or {}),
        "email": email or (details or {}).get("email"),
    }
    scope.save(session)
    emit(scope, "checkout.session.completed", session)
    return session


def _method(
    scope: Scope, session: Obj, card_number: str | None, email: str | None, name: str | None
) -> Obj:
    if card_number is None:
        if session["_sim"]["method"] is None:
            raise invalid("Missing required param: card.", "card", "parameter_missing")
        return scope.get("payment_method", session["_sim"]["method"])
    if not session["_sim"]["lines"] and session["mode"] != "setup":
        raise invalid("Nothing is sold in this session.")
    details = {"email": email, "name": name}
    return payment_methods.build(
        scope,
        {"type": "card", "card": {"number": card_number}, "billing_details": details},
    )


def _refuse_declined(card: cards.Card | None) -> None:
    if card is not None and card.declines and not card.later_only:
        raise payment_methods.declined(card.declines)


def _customer(scope: Scope, session: Obj, email: str | None, name: str | None) -> Obj | None:
    if session["customer"]:
        return customers.living(scope, session["customer"], "customer")
    if session["customer_creation"] == "if_required":
        return None
    customer = customers.build(scope, {"email": email or session["customer_email"], "name": name})
    session["customer"] = customer["id"]
    return customer


def _save_method(scope: Scope, customer: Obj | None, method: Obj) -> None:
    if customer is not None and method["customer"] is None:
        payment_methods.attach(scope, method, customer["id"])


def _pay_subscription(
    scope: Scope, session: Obj, customer: Obj | None, method: Obj, *, authenticated: bool
) -> None:
    assert customer is not None
    _save_method(scope, customer, method)
    data = dict(session["_sim"]["subscription_data"])
    if data.get("application_fee_percent") is not None:
        data["application_fee_percent"] = Decimal(data["application_fee_percent"])
    lines = [(scope.get("price", line["price"]), line) for line in session["_sim"]["lines"]]
    subscription = renewals.subscribe(
        scope,
        customer,
        {
            **data,
            "items": [
                {"price": price, "quantity": line["quantity"]}
                for price, line in lines
                if price["type"] == "recurring"
            ],
            "one_off": [
                (price, line["quantity"]) for price, line in lines if price["type"] == "one_time"
            ],
            "default_payment_method": method["id"],
            "payment_behavior": "hosted",
            "authenticated": authenticated,
            "session": session["id"],
        },
    )
    session |= {
        "subscription": subscription["id"],
        "invoice": subscription["latest_invoice"],
        "payment_status": "paid",
    }


def _pay_once(
    scope: Scope, session: Obj, customer: Obj | None, method: Obj, *, authenticated: bool
) -> None:
    data = session["_sim"]["payment_intent_data"]
    payment_intents.check_amount(session["amount_total"], session["currency"])
    intent = payment_intents.build(
        scope,
        {
            **data,
            "amount": session["amount_total"],
            "currency": session["currency"],
            "customer": customer["id"] if customer else None,
            "session": session["id"],
        },
    )
    session["payment_intent"] = intent["id"]
    decline = payment_intents.attempt(
        scope, intent, method, payer_present=True, authenticated=authenticated, lenient=True
    )
    if decline is not None:
        raise ApiError(decline.status, decline.message, kind=decline.kind, code=decline.code)
    session["payment_status"] = "unpaid" if intent["status"] == "processing" else "paid"


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
