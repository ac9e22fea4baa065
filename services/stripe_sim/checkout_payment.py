"""The payer's side of a checkout session: paying it."""

from decimal import Decimal

from services.stripe_sim import (
    cards,
    checkout,
    customers,
    discounts,
    payment_intents,
    payment_links,
    payment_methods,
    renewals,
)
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def pay(
    scope: Scope,
    session: Obj,
    card_number: str | None,
    *,
    iban: str | None = None,
    email: str | None = None,
    name: str | None = None,
    authenticated: bool | None = None,
) -> Obj:
    """Pay an open session with a test card or an IBAN; afterwards it is complete.

    A card that wants the payer's bank first leaves it open with the card remembered: call again
    with `authenticated` set and without a card.

    Raises:
        ApiError: it is not open, the card is unknown or declined; then nothing has changed.
    """
    checkout.require_open(scope, session)
    method = _method(scope, session, card_number, iban, {"email": email, "name": name})
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
    details = session["customer_details"] or checkout.customer_details(
        customer, {"customer_email": email}
    )
    session["customer_details"] = {
        **(details or {}),
        "email": email or (details or {}).get("email"),
    }
    scope.save(session)
    payment_links.count_completion(scope, session["payment_link"])
    emit(scope, "checkout.session.completed", session)
    return session


def _method(
    scope: Scope,
    session: Obj,
    card_number: str | None,
    iban: str | None,
    details: dict[str, str | None],
) -> Obj:
    if iban is not None:
        if "sepa_debit" not in session["payment_method_types"]:
            raise invalid("This session takes no SEPA debits.", "iban")
        wish = {"type": "sepa_debit", "sepa_debit": {"iban": iban}, "billing_details": details}
        return payment_methods.build(scope, wish)
    if card_number is None:
        if session["_sim"]["method"] is None:
            raise invalid("Missing required param: card.", "card", "parameter_missing")
        return scope.get("payment_method", session["_sim"]["method"])
    wish = {"type": "card", "card": {"number": card_number}, "billing_details": details}
    return payment_methods.build(scope, wish)


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
                {"price": price, "quantity": line["quantity"], "tax_rates": line["tax_rates"]}
                for price, line in lines
                if price["type"] == "recurring"
            ],
            "one_off": [
                (price, line["quantity"]) for price, line in lines if price["type"] == "one_time"
            ],
            "default_payment_method": method["id"],
            "default_tax_rates": data.get("tax_rates"),
            "redeems": _redeems(scope, session),
            "payment_behavior": "hosted",
            "authenticated": authenticated,
            "session": session["id"],
        },
    )
    session |= {
        "subscription": subscription["id"],
        "invoice": subscription["latest_invoice"],
        "payment_status": _first_payment_status(scope, subscription["latest_invoice"]),
    }


def _first_payment_status(scope: Scope, invoice_id: str) -> str:
    return "paid" if scope.get("invoice", invoice_id)["status"] == "paid" else "unpaid"


def _pay_once(
    scope: Scope, session: Obj, customer: Obj | None, method: Obj, *, authenticated: bool
) -> None:
    data = session["_sim"]["payment_intent_data"]
    if session["amount_total"] == 0:
        session["payment_status"] = "no_payment_required"
        return
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
    for coupon, promotion in _redeems(scope, session):
        owner = {"customer": session["customer"], "checkout_session": session["id"]}
        discounts.redeem(scope, coupon, promotion, owner)


def _redeems(scope: Scope, session: Obj) -> list[tuple[Obj, Obj | None]]:
    return [
        (scope.get("coupon", wish["coupon"]), scope.find("promotion_code", wish["promotion_code"]))
        for wish in session["_sim"]["discounts"]
    ]
