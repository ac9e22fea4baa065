"""Payment intents and charges of Stripe in the product's words: pure functions.

A payment is a payment intent with its latest charge, or a charge that has no intent. Neither names
the invoice it pays: that is looked up.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.billing import BilledBy
from libs.contracts.stripe_sync import PaymentFailed
from libs.money import from_stripe
from services.stripe_sync.objects import Json, UnreadableObjectError, id_of, named

PAID_STATUSES = frozenset({"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"})
WAITS_FOR_PAYER = frozenset({"UNKNOWN", "PENDING", "REQUIRES_ACTION"})

_STATUS_OF_INTENT: Mapping[str, str] = {
    "requires_payment_method": "PENDING",
    "requires_confirmation": "PENDING",
    "requires_action": "REQUIRES_ACTION",
    "processing": "PROCESSING",
    "requires_capture": "AUTHORIZED",
    "canceled": "CANCELED",
}


def charge_of(intent: Json) -> dict[str, Any] | None:
    """The latest charge of an intent, where it was expanded."""
    charge = intent.get("latest_charge")
    return charge if isinstance(charge, dict) else None


def charge_within(kind: str, raw: Json) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(type, id, JSON) of the charge that an intent was read with."""
    charge = charge_of(raw) if kind == "payment_intent" else None
    if charge is not None:
        yield "charge", charge["id"], charge


def of_an_intent(charge: Json) -> bool:
    """Whether a charge belongs to a payment intent."""
    return id_of(charge.get("payment_intent")) is not None


def payment_behind(raw: Json) -> list[tuple[str, str]]:
    """(type, id) of the payment that a charge, refund or dispute is about."""
    intent_id, charge_id = id_of(raw.get("payment_intent")), id_of(raw.get("charge"))
    if intent_id is not None:
        return [("payment_intent", intent_id)]
    return [("charge", charge_id)] if charge_id is not None else []


def is_ours(intent: Json) -> bool:
    """Whether the intent names a payment that we began: then it pays no invoice of Stripe's."""
    return named(intent, "payment_id") is not None


def payment_of_intent(intent: Json) -> dict[str, Any]:
    """What a payment intent says of its payment, by column.

    Raises:
        UnreadableObjectError: a field is missing or odd.
    """
    try:
        charge = charge_of(intent)
        status = _intent_status(intent, charge)
        action = (intent.get("next_action") or {}).get("redirect_to_url") or {}
        error = intent.get("last_payment_error") or {}
        payment = _payment(intent, charge, status) | {
            "stripe_payment_intent_id": intent["id"],
            "confirmation_url": action.get("url") if status == "REQUIRES_ACTION" else None,
        }
        code = (charge or {}).get("failure_code") or error.get("code")
        return payment | {"failure_code": code if status == "FAILED" else None}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableObjectError(f"payment intent: {error!r}") from None


def payment_of_charge(charge: Json) -> dict[str, Any]:
    """What a charge without an intent says of its payment, by column.

    Raises:
        UnreadableObjectError: a field is missing or odd.
    """
    try:
        status = _charge_status(charge)
        failed = {"failure_code": charge["failure_code"]} if status == "FAILED" else {}
        return _payment(charge, charge, status) | failed
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"charge: {error!r}") from None


def _payment(subject: Json, charge: Json | None, status: str) -> dict[str, Any]:
    """What is read alike of intents and charges."""
    currency = subject["currency"]
    captured = charge is not None and charge["captured"]
    moved = charge["amount_captured"] if charge is not None and captured else subject["amount"]
    charge = charge or {}
    return {
        "stripe_customer_id": id_of(subject["customer"]),
        "stripe_charge_id": charge.get("id"),
        "stripe_payment_intent_id": None,
        "status": status,
        "amount_minor": from_stripe(moved, currency).amount_minor,
        "refunded_minor": from_stripe(_given_back(charge), currency).amount_minor,
        "currency": currency.upper(),
        "failure_code": None,
        "receipt_number": charge.get("receipt_number"),
        "receipt_url": charge.get("receipt_url"),
        "receipt_email": charge.get("receipt_email") or subject.get("receipt_email"),
        "disputed": bool(charge.get("disputed")),
        "confirmation_url": None,
        "description": subject.get("description"),
        "created_at": from_unix(subject["created"]),
        "paid_at": from_unix(charge["created"]) if status in PAID_STATUSES else None,
    }


def _given_back(charge: Json) -> int:
    """What went back to the payer: what was never captured counts as refunded at Stripe too."""
    if not charge or not charge["captured"]:
        return 0
    released: int = charge["amount"] - charge["amount_captured"]
    given_back: int = charge["amount_refunded"] - released
    return max(0, given_back)


def _intent_status(intent: Json, charge: Json | None) -> str:
    status = intent["status"]
    if status == "succeeded":
        # Without its charge nothing can be said of the money yet.
        return _charge_status(charge) if charge is not None else "PROCESSING"
    if status == "requires_payment_method" and intent.get("last_payment_error"):
        return "FAILED"
    if status not in _STATUS_OF_INTENT:
        raise UnreadableObjectError(f"payment intent: status {str(status)[:50]}")
    return _STATUS_OF_INTENT[status]


def _charge_status(charge: Json) -> str:
    if charge["status"] == "failed":
        return "FAILED"
    if charge["status"] == "pending":
        return "PROCESSING"
    if not charge["captured"]:
        return "CANCELED" if charge["refunded"] else "AUTHORIZED"
    given_back = _given_back(charge)
    if given_back == 0:
        return "COMPLETED"
    return "REFUNDED" if given_back >= charge["amount_captured"] else "PARTIALLY_REFUNDED"


def waits_for_booking(charge: Json) -> bool:
    """Whether Stripe has yet to add the balance transaction of a payment."""
    booked = charge["balance_transaction"] is not None
    return charge["status"] == "succeeded" and bool(charge["captured"]) and not booked


def failure_fact(
    charge: Json, *, account: str, customer_id: UUID, invoice_id: str | None
) -> PaymentFailed | None:
    """What is said of an attempt that failed; None where it did not.

    Raises:
        UnreadableObjectError: a field is missing or odd.
    """
    try:
        if charge["status"] != "failed":
            return None
        currency = charge["currency"]
        return PaymentFailed(
            account=account,
            customer_id=customer_id,
            stripe_payment_intent_id=id_of(charge["payment_intent"]),
            stripe_invoice_id=invoice_id,
            attempt_key=charge["id"],
            amount_minor=from_stripe(charge["amount"], currency).amount_minor,
            currency=currency.upper(),
            failure_code=charge["failure_code"],
            failed_at=from_unix(charge["created"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"charge: {error!r}") from None


def collected_by(account: str, platform: str) -> BilledBy:
    """Whose account money arrived in."""
    return "platform" if account == platform else "tenant"
