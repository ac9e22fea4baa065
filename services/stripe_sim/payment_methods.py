"""Payment methods: test cards and SEPA debits, and what happens when they are charged."""

from dataclasses import dataclass
from typing import Any

from services.stripe_sim import cards
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope, letters
from services.stripe_sim.store import Obj

_EMPTY_ADDRESS = {
    "city": None,
    "country": None,
    "line1": None,
    "line2": None,
    "postal_code": None,
    "state": None,
}


@dataclass(frozen=True)
class Verdict:
    """What a charge comes to: `succeeds`, `declined`, `needs_payer` or `processing`."""

    outcome: str
    reason: str | None = None


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a payment method of type `card` or `sepa_debit`.

    Raises:
        ApiError: the type is not simulated, or the card is no test card.
    """
    kind = fields.get("type") or ("card" if fields.get("card") else None)
    if kind == "sepa_debit":
        return _build_sepa(scope, fields)
    if kind != "card":
        raise invalid(f"The payment method type `{kind}` is not simulated.", "type")
    wish = fields.get("card") or {}
    token, number = wish.get("token"), wish.get("number")
    card = cards.named(str(token).removeprefix("tok_")) if token else cards.numbered(str(number))
    if card is None:
        raise ApiError(
            402,
            "Your card number is incorrect; the sandbox takes Stripe's test cards only.",
            kind="card_error",
            code="incorrect_number",
            param="card[number]",
        )
    return _build_card(scope, card, fields)


def _build_card(scope: Scope, card: cards.Card, fields: dict[str, Any]) -> Obj:
    wish = fields.get("card") or {}
    method = _frame(scope, "card", fields)
    method["card"] = {
        "brand": card.brand,
        "checks": {
            "address_line1_check": None,
            "address_postal_code_check": None,
            "cvc_check": "pass",
        },
        "country": "US",
        "display_brand": card.brand,
        "exp_month": wish.get("exp_month") or 12,
        "exp_year": wish.get("exp_year") or 2034,
        "fingerprint": letters(card.number.encode(), 8) + card.last4,
        "funding": "credit",
        "generated_from": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }
    method["_sim"] = {"card": card.number, "saved": False}
    return scope.save(method)


def _build_sepa(scope: Scope, fields: dict[str, Any]) -> Obj:
    iban = str((fields.get("sepa_debit") or {}).get("iban") or "").replace(" ", "")
    if len(iban) < 15 or not iban.isalnum():
        raise invalid("The IBAN is invalid.", "sepa_debit[iban]", "invalid_bank_account_iban")
    method = _frame(scope, "sepa_debit", fields)
    method["sepa_debit"] = {
        "bank_code": iban[4:12],
        "branch_code": None,
        "country": iban[:2].upper(),
        "fingerprint": letters(iban.encode(), 16),
        "generated_from": {"charge": None, "setup_attempt": None},
        "last4": iban[-4:],
    }
    method["_sim"] = {"card": None, "saved": True}
    return scope.save(method)


def _frame(scope: Scope, kind: str, fields: dict[str, Any]) -> Obj:
    details = fields.get("billing_details") or {}
    return {
        "id": scope.new_id("pm_1"),
        "object": "payment_method",
        "allow_redisplay": fields.get("allow_redisplay") or "unspecified",
        "billing_details": {
            "address": {**_EMPTY_ADDRESS, **(details.get("address") or {})},
            "email": details.get("email"),
            "name": details.get("name"),
            "phone": details.get("phone"),
            "tax_id": None,
        },
        "created": scope.wall_now(),
        "customer": None,
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "type": kind,
    }


def resolve(scope: Scope, method_id: str, param: str = "payment_method") -> Obj:
    """Return a payment method; the well-known `pm_card_…` and `tok_…` make a new one each time.

    Raises:
        ApiError: there is no such payment method.
    """
    for prefix in ("pm_card_", "tok_"):
        if method_id.startswith(prefix):
            card = cards.named(method_id.removeprefix(prefix))
            if card is not None:
                return _build_card(scope, card, {})
    return scope.get("payment_method", method_id, param)


def attach(scope: Scope, method: Obj, customer_id: str) -> Obj:
    """Attach a payment method to a customer.

    Raises:
        ApiError: it belongs to another customer, or the card refuses to be saved.
    """
    if method["customer"] not in (None, customer_id):
        raise invalid(
            "The payment method you provided has already been attached to a customer.",
            "payment_method",
            "payment_method_unexpected_state",
        )
    card = card_of(method)
    if card is not None and not card.attaches:
        raise declined(card.declines or "card_declined")
    if method["customer"] is None:
        method["customer"] = customer_id
        scope.save(method)
        emit(scope, "payment_method.attached", method)
    return method


def detach(scope: Scope, method: Obj) -> Obj:
    """Detach a payment method from its customer, and from wherever it was the default."""
    if method["customer"] is None:
        raise invalid(
            "The payment method you provided is not attached to a customer so detachment is "
            "impossible.",
            "payment_method",
        )
    customer = scope.find("customer", method["customer"])
    if customer and customer["invoice_settings"]["default_payment_method"] == method["id"]:
        customer["invoice_settings"]["default_payment_method"] = None
        scope.save(customer)
    for subscription in scope.all("subscription", default_payment_method=method["id"]):
        subscription["default_payment_method"] = None
        scope.save(subscription)
    previous = {"customer": method["customer"]}
    method["customer"] = None
    scope.save(method)
    emit(scope, "payment_method.detached", method, previous)
    return method


def card_of(method: Obj) -> cards.Card | None:
    """Return the test card behind a payment method, or None where it is no card."""
    number = method["_sim"]["card"]
    return cards.BY_NUMBER[number] if number else None


def judge(method: Obj, *, payer_present: bool, authenticated: bool, lenient: bool) -> Verdict:
    """Decide what a charge of this payment method comes to.

    `lenient` is the hosted page: a card that fails later charges passes there, so that a life
    with a failing renewal can be told by its card number alone.
    """
    card = card_of(method)
    if card is None:
        return Verdict("processing")
    needs_payer = card.authenticates == "always" or (
        card.authenticates == "until_saved" and not method["_sim"]["saved"]
    )
    if needs_payer and not authenticated:
        if not payer_present:
            return Verdict("declined", "authentication_required")
        return Verdict("needs_payer")
    if card.declines and not (card.later_only and lenient):
        return Verdict("declined", card.declines)
    return Verdict("succeeds")


def declined(reason: str, **details: Any) -> ApiError:
    """Return the 402 of a declined card."""
    code, decline_code = cards.codes(reason)
    if decline_code is not None:
        details["decline_code"] = decline_code
    return ApiError(
        402,
        cards.DECLINES.get(reason, cards.DECLINES["card_declined"]),
        kind="card_error",
        code=code,
        keeps_effects=True,
        **details,
    )
