"""Payment intents: what is to be paid, and the attempts to take it."""

from typing import Any

from services.stripe_sim import cards, charges, disputes, payment_methods
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.money import CHARGE_MINOR_MIN, CURRENCIES
from services.stripe_sim.render import render
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELABLE = (*CONFIRMABLE, "requires_capture", "processing")


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a payment intent that waits for a payment method or its confirmation."""
    currency = str(fields["currency"]).lower()
    intent_id = scope.new_id("pi_3")
    automatic = fields.get("automatic_payment_methods")
    intent: Obj = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": fields["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": fields.get("application_fee_amount"),
        "automatic_payment_methods": automatic,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": fields.get("capture_method") or "automatic_async",
        "client_secret": f"{intent_id}_secret_{scope.new_id('', 24)}",
        "confirmation_method": fields.get("confirmation_method") or "automatic",
        "created": scope.wall_now(),
        "currency": currency,
        "customer": fields.get("customer"),
        "description": fields.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "next_action": None,
        "on_behalf_of": fields.get("on_behalf_of"),
        "payment_method": fields.get("payment_method"),
        "payment_method_configuration_details": None,
        "payment_method_options": fields.get("payment_method_options")
        or {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": fields.get("payment_method_types") or ["card"],
        "payment_record": None,
        "processing": None,
        "receipt_email": fields.get("receipt_email"),
        "review": None,
        "setup_future_usage": fields.get("setup_future_usage"),
        "shipping": fields.get("shipping"),
        "source": None,
        "statement_descriptor": fields.get("statement_descriptor"),
        "statement_descriptor_suffix": fields.get("statement_descriptor_suffix"),
        "status": "requires_confirmation"
        if fields.get("payment_method")
        else "requires_payment_method",
        "transfer_data": fields.get("transfer_data"),
        "transfer_group": fields.get("transfer_group"),
        "_sim": {
            "invoice": fields.get("invoice"),
            "session": fields.get("session"),
            "return_url": fields.get("return_url"),
        },
    }
    scope.save(intent)
    emit(scope, "payment_intent.created", intent)
    return intent


def check_amount(amount: int, currency: str) -> None:
    """Refuse amounts and currencies Stripe refuses.

    Raises:
        ApiError: with Stripe's code.
    """
    if currency not in CURRENCIES:
        raise invalid(
            f"Invalid currency: {currency[:20]}. Stripe currently supports these currencies: "
            + ", ".join(sorted(CURRENCIES)),
            "currency",
        )
    if amount < 1:
        raise invalid(
            "This value must be greater than or equal to 1.",
            "amount",
            "parameter_invalid_integer",
        )
    if amount < CHARGE_MINOR_MIN:
        raise invalid(
            "The amount must be greater than or equal to the minimum charge amount allowed for "
            "your account and the currency set.",
            "amount",
            "amount_too_small",
        )
    if amount > 99_999_999:
        raise invalid("Amount must be no more than 999,999.99", "amount", "amount_too_large")


def attempt(
    scope: Scope,
    intent: Obj,
    method: Obj,
    *,
    payer_present: bool,
    authenticated: bool = False,
    lenient: bool = False,
) -> ApiError | None:
    """Try to take the payment; return the decline, or None where it was not declined.

    Afterwards the intent's status tells: `succeeded`, `requires_capture`, `requires_action`,
    `processing`, or `requires_payment_method` after a decline.
    """
    verdict = payment_methods.judge(
        method, payer_present=payer_present, authenticated=authenticated, lenient=lenient
    )
    intent["payment_method"] = method["id"]
    if method["type"] not in intent["payment_method_types"]:
        intent["payment_method_types"] = [*intent["payment_method_types"], method["type"]]
    if verdict.outcome == "declined":
        return _fail(scope, intent, method, str(verdict.reason))
    intent["last_payment_error"] = None
    if verdict.outcome == "needs_payer":
        _ask_payer(scope, intent)
        return None
    intent["next_action"] = None
    if authenticated:
        method["_sim"]["saved"] = True
        scope.save(method)
    if verdict.outcome == "processing":
        _process(scope, intent, method)
        return None
    _succeed(scope, intent, method)
    return None


def _succeed(scope: Scope, intent: Obj, method: Obj) -> None:
    charge = charges.build(scope, intent, method, status="succeeded")
    charge["receipt_number"] = _receipt_number(scope)
    intent["latest_charge"] = charge["id"]
    if intent["customer"] and intent["setup_future_usage"] and method["customer"] is None:
        payment_methods.attach(scope, method, intent["customer"])
    if not charge["captured"]:
        intent["status"] = "requires_capture"
        intent["amount_capturable"] = intent["amount"]
        scope.save(intent)
        emit(scope, "charge.succeeded", charge)
        emit(scope, "payment_intent.amount_capturable_updated", intent)
        return
    charges.book(scope, charge)
    intent["status"] = "succeeded"
    intent["amount_received"] = intent["amount"]
    scope.save(intent)
    emit(scope, "charge.succeeded", charge)
    emit(scope, "payment_intent.succeeded", intent)
    card = payment_methods.card_of(method)
    if card is not None and card.disputed_as is not None:
        disputes.build(scope, charge, card.disputed_as)


def _receipt_number(scope: Scope) -> str:
    digits = scope.new_id("", 8).encode().hex()
    return f"{digits[:4]}-{digits[4:8]}"


def _fail(scope: Scope, intent: Obj, method: Obj, reason: str) -> ApiError:
    charge = charges.build(scope, intent, method, status="failed", reason=reason)
    code, decline_code = cards.codes(reason)
    intent["latest_charge"] = charge["id"]
    intent["payment_method"] = None
    intent["status"] = "requires_payment_method"
    intent["next_action"] = None
    intent["last_payment_error"] = {
        "charge": charge["id"],
        "code": code,
        **({"decline_code": decline_code} if decline_code else {}),
        "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
        "message": cards.DECLINES[reason],
        "payment_method": render(scope, method),
        "type": "card_error",
    }
    scope.save(intent)
    emit(scope, "charge.failed", charge)
    emit(scope, "payment_intent.payment_failed", intent)
    return payment_methods.declined(
        reason,
        charge=charge["id"],
        payment_intent=render(scope, intent),
        payment_method=render(scope, method),
    )


def _ask_payer(scope: Scope, intent: Obj) -> None:
    settings = scope.sandbox.settings
    intent["status"] = "requires_action"
    intent["next_action"] = {
        "redirect_to_url": {
            "return_url": intent["_sim"]["return_url"],
            "url": f"{settings.public_url}/authenticate/{scope.account}/{intent['id']}",
        },
        "type": "redirect_to_url",
    }
    scope.save(intent)
    emit(scope, "payment_intent.requires_action", intent)


def _process(scope: Scope, intent: Obj, method: Obj) -> None:
    charge = charges.build(scope, intent, method, status="pending")
    intent["latest_charge"] = charge["id"]
    intent["status"] = "processing"
    intent["processing"] = None
    scope.save(intent)
    emit(scope, "charge.pending", charge)
    emit(scope, "payment_intent.processing", intent)


def finish_processing(scope: Scope, intent: Obj, *, succeeds: bool) -> None:
    """Settle a slow payment that was processing.

    Raises:
        ApiError: it is not processing.
    """
    if intent["status"] != "processing":
        raise invalid(f"This PaymentIntent is {intent['status']}, not processing.")
    charge = scope.get("charge", intent["latest_charge"])
    if succeeds:
        charge["status"] = "succeeded"
        charges.book(scope, charge)
        intent["status"] = "succeeded"
        intent["amount_received"] = intent["amount"]
    else:
        charge |= {
            "status": "failed",
            "paid": False,
            "failure_code": "insufficient_funds",
            "failure_message": "The bank account has insufficient funds.",
        }
        intent["status"] = "requires_payment_method"
        intent["payment_method"] = None
        intent["last_payment_error"] = {
            "charge": charge["id"],
            "code": "payment_intent_payment_attempt_failed",
            "message": "The payment failed.",
            "type": "card_error",
        }
    scope.save(charge)
    scope.save(intent)
    emit(scope, "charge.succeeded" if succeeds else "charge.failed", charge)
    emit(scope, "payment_intent.succeeded" if succeeds else "payment_intent.payment_failed", intent)


def refuse_authentication(scope: Scope, intent: Obj) -> None:
    """Record that the payer failed the bank's challenge: a failure without a charge."""
    intent["status"] = "requires_payment_method"
    intent["next_action"] = None
    intent["last_payment_error"] = {
        "code": "payment_intent_authentication_failure",
        "doc_url": "https://stripe.com/docs/error-codes/payment-intent-authentication-failure",
        "message": "The provided PaymentMethod has failed authentication.",
        "payment_method": render(scope, scope.get("payment_method", intent["payment_method"])),
        "type": "invalid_request_error",
    }
    intent["payment_method"] = None
    scope.save(intent)
    emit(scope, "payment_intent.payment_failed", intent)


def capture(scope: Scope, intent: Obj, amount: int | None, fee: int | None = None) -> Obj:
    """Take all or part of an authorised payment.

    Args:
        fee: the platform's share; None: as the intent says, at most what is captured.

    Raises:
        ApiError: nothing is authorised, or less than the amount.
    """
    if intent["status"] != "requires_capture":
        raise unexpected_state(intent, "captured", "requires_capture")
    amount = intent["amount_capturable"] if amount is None else amount
    if not 1 <= amount <= intent["amount_capturable"]:
        raise invalid(
            f"The amount to capture must be from 1 to {intent['amount_capturable']}.",
            "amount_to_capture",
            "amount_too_large",
        )
    charge = scope.get("charge", intent["latest_charge"])
    charge |= {"captured": True, "amount_captured": amount}
    if amount < charge["amount"]:
        charge["amount_refunded"] = charge["amount"] - amount
    fee = intent["application_fee_amount"] if fee is None else fee
    if fee is not None:
        charge["application_fee_amount"] = intent["application_fee_amount"] = min(fee, amount)
    charges.book(scope, charge)
    intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
    scope.save(intent)
    emit(scope, "charge.captured", charge)
    emit(scope, "payment_intent.succeeded", intent)
    return intent


def cancel(scope: Scope, intent: Obj, reason: str | None) -> Obj:
    """Cancel a payment intent that has not succeeded; an authorisation is given back.

    Raises:
        ApiError: it has succeeded or is canceled.
    """
    if intent["status"] not in CANCELABLE:
        raise unexpected_state(intent, "canceled", ", ".join(CANCELABLE))
    if intent["status"] == "requires_capture":
        charge = scope.get("charge", intent["latest_charge"])
        charge |= {"amount_refunded": charge["amount"], "refunded": True}
        scope.save(charge)
        emit(scope, "charge.refunded", charge)
    intent |= {
        "status": "canceled",
        "canceled_at": scope.wall_now(),
        "cancellation_reason": reason,
        "amount_capturable": 0,
        "next_action": None,
    }
    scope.save(intent)
    emit(scope, "payment_intent.canceled", intent)
    return intent


def unexpected_state(intent: Obj, verb: str, wanted: str) -> ApiError:
    """Return the 400 for an intent whose status does not allow the call."""
    return ApiError(
        400,
        f"This PaymentIntent could not be {verb} because it has a status of {intent['status']}. "
        f"Only a PaymentIntent with one of the following statuses may be {verb}: {wanted}.",
        code="payment_intent_unexpected_state",
    )
