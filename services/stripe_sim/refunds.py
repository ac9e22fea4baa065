"""Refunds: money given back; Stripe keeps the fee of the charge."""

from typing import Any

from services.stripe_sim import balance, money
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


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
            "pending_reason": None,
            "reason": fields.get("reason"),
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "succeeded",
            "transfer_reversal": None,
        }
    )


def _refund_application_fee(scope: Scope, charge: Obj) -> int:
    """Return how much of its share the platform gives back, in proportion to what is refunded."""
    platform_id = next(iter(scope.own_account["_sim"]["platforms"]), None)
    fee_id = charge["application_fee"]
    if platform_id is None or fee_id is None:
        return 0
    platform = scope.sandbox.scope(platform_id)
    fee = platform.get("application_fee", fee_id)
    due = money.share(fee["amount"], charge["amount_refunded"], charge["amount_captured"])
    back: int = due - fee["amount_refunded"]
    if back <= 0:
        return 0
    refund_id = scope.new_id("fr_1")
    paid = balance.record(
        platform,
        "application_fee_refund",
        -back,
        fee["currency"],
        refund_id,
        description="Application fee refund",
    )
    refund = platform.save(
        {
            "id": refund_id,
            "object": "fee_refund",
            "amount": back,
            "balance_transaction": paid["id"],
            "created": scope.wall_now(),
            "currency": fee["currency"],
            "fee": fee_id,
            "metadata": {},
        }
    )
    fee["amount_refunded"] += back
    fee["refunded"] = fee["amount_refunded"] == fee["amount"]
    fee["refunds"]["data"].insert(0, refund)
    platform.save(fee)
    emit(platform, "application_fee.refunded", fee)
    return back
