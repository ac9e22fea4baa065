"""Disputes: a payer's bank takes the money back until it is decided who is right."""

from typing import Any

from services.stripe_sim import balance
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

FEE_MINOR = 1500
EVIDENCE_SECONDS = 7 * DAY_SECONDS

REASONS = (
    "bank_cannot_process",
    "check_returned",
    "credit_not_processed",
    "customer_initiated",
    "debit_not_authorized",
    "duplicate",
    "fraudulent",
    "general",
    "incorrect_account_details",
    "insufficient_funds",
    "noncompliant",
    "product_not_received",
    "product_unacceptable",
    "subscription_canceled",
    "unrecognized",
)

EVIDENCE = (
    "access_activity_log", "billing_address", "cancellation_policy",
    "cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication",
    "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature",
    "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id",
    "product_description", "receipt", "refund_policy", "refund_policy_disclosure",
    "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address",
    "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number",
    "uncategorized_file", "uncategorized_text",
)  # fmt: skip

WINNING, LOSING = "winning_evidence", "losing_evidence"
"""Stripe's own test values of `uncategorized_text`: they decide a dispute when submitted."""


def build(scope: Scope, charge: Obj, reason: str, amount: int | None = None) -> Obj:
    """Open a dispute about a charge; amount and fee leave the balance at once.

    Raises:
        ApiError: nothing of the charge is left, or it is disputed already.
    """
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = left if amount is None else amount
    if charge["disputed"] or not charge["paid"] or not 1 <= amount <= left:
        raise invalid("This charge cannot be disputed, or not for this amount.", "charge")
    now = scope.wall_now()
    dispute_id = scope.new_id("du_1")
    currency = charge["currency"]
    withdrawn = balance.record(
        scope,
        "adjustment",
        -amount,
        currency,
        dispute_id,
        fees=[balance.fee_detail(FEE_MINOR, currency, "stripe_fee", "Dispute fee")],
        description=f"Chargeback withdrawal for {charge['id']}",
    )
    dispute = scope.save(
        {
            "id": dispute_id,
            "object": "dispute",
            "amount": amount,
            "balance_transactions": [dict(withdrawn)],
            "charge": charge["id"],
            "created": now,
            "currency": currency,
            "enhanced_eligibility_types": [],
            "evidence": {**dict.fromkeys(EVIDENCE), "enhanced_evidence": {}},
            "evidence_details": {
                "due_by": now + EVIDENCE_SECONDS,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
                "submission_method": "not_submitted",
            },
            "intended_submission_method": None,
            "is_charge_refundable": False,
            "livemode": False,
            "metadata": {},
            "network_reason_code": "10.4",
            "payment_intent": charge["payment_intent"],
            "payment_method_details": _method_details(charge),
            "reason": reason,
            "status": "needs_response",
        }
    )
    _strip(dispute)
    charge["disputed"] = True
    scope.save(charge)
    emit(scope, "charge.dispute.created", dispute)
    emit(scope, "charge.dispute.funds_withdrawn", dispute)
    return dispute


def _method_details(charge: Obj) -> dict[str, Any] | None:
    card = charge["payment_method_details"].get("card")
    if card is None:
        return None
    details = {
        "brand": card["brand"],
        "case_type": "chargeback",
        "network": card["network"],
        "network_reason_code": "10.4",
    }
    return {"card": details, "type": "card"}


def _strip(dispute: Obj) -> None:
    """Keep what the sandbox notes on balance transactions out of their copies."""
    for transaction in dispute["balance_transactions"]:
        transaction.pop("_sim", None)


def update(scope: Scope, dispute: Obj, fields: dict[str, Any]) -> Obj:
    """Add evidence, and submit it where asked; Stripe's test words then decide the dispute.

    Raises:
        ApiError: it is decided already.
    """
    if dispute["status"] not in ("needs_response", "warning_needs_response", "under_review"):
        raise invalid("This dispute is already closed.", "id")
    evidence = fields.get("evidence") or {}
    dispute["evidence"] |= evidence
    if evidence:
        dispute["evidence_details"]["has_evidence"] = True
    if fields.get("submit") is False:
        return scope.save(dispute)
    dispute["evidence_details"] |= {"submission_method": "manual"}
    dispute["evidence_details"]["submission_count"] += 1
    dispute["status"] = "under_review"
    scope.save(dispute)
    emit(scope, "charge.dispute.updated", dispute)
    words = dispute["evidence"]["uncategorized_text"]
    if words in (WINNING, LOSING):
        close(scope, dispute, won=words == WINNING)
    return dispute


def close(scope: Scope, dispute: Obj, *, won: bool) -> Obj:
    """Decide a dispute; a won one brings the amount back, the fee stays paid.

    Raises:
        ApiError: it is decided already.
    """
    if dispute["status"] in ("won", "lost"):
        raise invalid("This dispute is already closed.", "id")
    dispute["status"] = "won" if won else "lost"
    if won:
        back = balance.record(
            scope,
            "adjustment",
            dispute["amount"],
            dispute["currency"],
            dispute["id"],
            description=f"Chargeback reversal for {dispute['charge']}",
            category="dispute_reversal",
        )
        dispute["balance_transactions"].append(dict(back))
        _strip(dispute)
    scope.save(dispute)
    emit(scope, "charge.dispute.closed", dispute)
    if won:
        emit(scope, "charge.dispute.funds_reinstated", dispute)
    return dispute
