"""Refunds: money given back; Stripe keeps the fee of the charge."""

from collections.abc import Iterator
from typing import Any

from services.stripe_sim import balance, money, payment_methods
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

FAILURES = (
    "declined",
    "expired_or_canceled_card",
    "insufficient_funds",
    "lost_or_stolen_card",
    "unknown",
)
"""Why a payer's bank does not take a refund, in Stripe's words."""


def create(scope: Scope, charge: Obj, fields: dict[str, Any]) -> Obj:
    """Refund a charge in full or in part.

    Raises:
        ApiError: the charge was not paid, or less is left of it than the amount.
    """
    if charge["disputed"]:
        raise ApiError(
            400,
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
        )
    left = charge["amount_captured"] - charge["amount_refunded"]
    if not charge["paid"] or not charge["captured"] or charge["status"] != "succeeded":
        raise invalid(f"Charge {charge['id']} has not been captured.", "charge")
    if left <= 0:
        raise ApiError(
            400,
            f"Charge {charge['id']} has already been refunded.",
            code="charge_already_refunded",
        )
    amount = left if fields.get("amount") is None else fields["amount"]
    if amount < 1:
        raise invalid("Invalid positive integer", "amount", "parameter_invalid_integer")
    if amount > left:
        raise invalid(
            f"Refund amount ({money.shown(amount, charge['currency'])}) is greater than unrefunded "
            f"amount on charge ({money.shown(left, charge['currency'])})",
            "amount",
        )
    previous = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    scope.save(charge)
    wants_fee_back = bool(fields.get("refund_application_fee"))
    fee_back = _refund_application_fee(scope, charge) if wants_fee_back else 0
    refund = _build(scope, charge, amount, fields, fee_back)
    emit(scope, "refund.created", refund)
    emit(scope, "charge.refunded", charge, previous)
    emit(scope, "refund.updated", refund)
    return refund


def _build(scope: Scope, charge: Obj, amount: int, fields: dict[str, Any], fee_back: int) -> Obj:
    """Create the refund; a returned application fee shows as a negative fee of its movement."""
    currency = charge["currency"]
    fees = [balance.fee_detail(-fee_back, currency, "application_fee", "Application fee refund")]
    refund_id = scope.new_id("re_3")
    slow = charge["payment_method_details"]["type"] != "card"
    method = scope.find("payment_method", charge["payment_method"])
    card = payment_methods.card_of(method) if method else None
    course = card.refunds if card else "at_once"
    transaction = balance.record(
        scope,
        "payment_refund" if slow else "refund",
        -amount,
        currency,
        refund_id,
        fees=fees if fee_back else None,
        description="REFUND FOR CHARGE",
    )
    return scope.save(
        {
            "id": refund_id,
            "object": "refund",
            "amount": amount,
            "balance_transaction": transaction["id"],
            "charge": charge["id"],
            "created": scope.wall_now(),
            "currency": currency,
            "customer": charge["customer"],
            "destination_details": {
                "card": {
                    "reference_status": "pending",
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "failure_balance_transaction": None,
            "metadata": fields.get("metadata") or {},
            "payment_intent": charge["payment_intent"],
            "payment_method": charge["payment_method"],
            "pending_reason": "processing" if course == "slowly" else None,
            "reason": fields.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "pending" if course == "slowly" else "succeeded",
            "transfer_reversal": None,
            "_sim": {"course": course},
        }
    )


def settle(scope: Scope, refund: Obj, failure: str | None = None) -> Obj:
    """Let a pending refund succeed, or let one fail, also after it had succeeded.

    What a failed refund took comes back to the balance, and the charge counts as refunded by so
    much less.

    Raises:
        ApiError: it has failed already, there is nothing to settle, or no such failure.
    """
    if failure is not None and failure not in FAILURES:
        raise invalid(f"failure must be one of {', '.join(FAILURES)}", "failure")
    if refund["status"] not in (("pending", "succeeded") if failure else ("pending",)):
        raise invalid(f"This refund is {refund['status']}.", "id")
    refund["_sim"] = {"course": "at_once"}
    refund["pending_reason"] = None
    if failure is None:
        refund["status"] = "succeeded"
        _tell(scope, refund, "refund.updated", "charge.refund.updated")
        return refund
    back = balance.record(
        scope,
        "refund_failure",
        refund["amount"],
        refund["currency"],
        refund["id"],
        description="REFUND FAILURE",
    )
    refund |= {
        "status": "failed",
        "failure_reason": failure,
        "failure_balance_transaction": back["id"],
    }
    charge = scope.get("charge", refund["charge"])
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    scope.save(charge)
    _tell(scope, refund, "refund.updated", "charge.refund.updated", "refund.failed")
    return refund


def _tell(scope: Scope, refund: Obj, *kinds: str) -> None:
    scope.save(refund)
    for kind in kinds:
        emit(scope, kind, refund)


def due(scope: Scope, now: int) -> Iterator[tuple[Obj, str | None]]:
    """Yield (refund, how it fails or None) for what a test card lets end some time later."""
    wait = scope.sandbox.settings.slow_payment_seconds
    for refund in scope.all("refund"):
        course = refund.get("_sim", {}).get("course", "at_once")
        if course != "at_once" and refund["created"] + wait <= now:
            yield refund, "expired_or_canceled_card" if course == "in_vain" else None


def _refund_application_fee(scope: Scope, charge: Obj) -> int:
    """Return how much of its share the platform gives back, in proportion to what is refunded."""
    platform_id = next(iter(scope.own_account["_sim"]["platforms"]), None)
    fee_id = charge["application_fee"]
    if platform_id is None or fee_id is None:
        return 0
    platform = scope.sandbox.scope(platform_id)
    fee = platform.get("application_fee", fee_id)
    owed = money.share(fee["amount"], charge["amount_refunded"], charge["amount_captured"])
    back: int = owed - fee["amount_refunded"]
    if back <= 0:
        return 0
    give_fee_back(platform, fee, back, {})
    return back


def give_fee_back(platform: Scope, fee: Obj, amount: int, metadata: dict[str, str]) -> Obj:
    """Give a part of an application fee back out of the platform's balance."""
    refund_id = platform.new_id("fr_1")
    paid = balance.record(
        platform,
        "application_fee_refund",
        -amount,
        fee["currency"],
        refund_id,
        description="Application fee refund",
    )
    refund = platform.save(
        {
            "id": refund_id,
            "object": "fee_refund",
            "amount": amount,
            "balance_transaction": paid["id"],
            "created": platform.wall_now(),
            "currency": fee["currency"],
            "fee": fee["id"],
            "metadata": metadata,
        }
    )
    fee["amount_refunded"] += amount
    fee["refunded"] = fee["amount_refunded"] == fee["amount"]
    fee["refunds"]["data"].insert(0, refund)
    platform.save(fee)
    emit(platform, "application_fee.refunded", fee)
    return refund
