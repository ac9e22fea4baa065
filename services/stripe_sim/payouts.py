"""Payouts: the available balance on its way to the account's bank."""

from typing import Any

from services.stripe_sim import balance
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

ARRIVES_AFTER_SECONDS = 2 * DAY_SECONDS

FAILURES = {
    "account_closed": "The bank account has been closed.",
    "could_not_process": "The bank could not process this payout.",
    "insufficient_funds": "Your Stripe account has insufficient funds to cover the payout.",
    "invalid_account_number": "The bank account has an invalid account number.",
    "no_account": "The bank account could not be located.",
}


def available_minor(scope: Scope, currency: str) -> int:
    """Return what may be paid out in a currency."""
    balance.release(scope)
    return sum(
        transaction["net"]
        for transaction in scope.all("balance_transaction", currency=currency)
        if transaction["status"] == "available"
    )


def build(scope: Scope, fields: dict[str, Any], *, automatic: bool = False) -> Obj:
    """Create a payout of an available amount; it is pending until it is settled.

    An automatic one names every available transaction it is made of: a list of balance
    transactions by payout adds up to it.

    Raises:
        ApiError: less is available than the amount, or the account cannot be paid out.
    """
    if not scope.own_account["payouts_enabled"]:
        raise invalid("Payouts are not enabled for this account.", code="payouts_not_allowed")
    currency = fields["currency"].lower()
    amount = fields["amount"]
    if amount < 1:
        raise invalid("Invalid positive integer", "amount", "parameter_invalid_integer")
    if amount > available_minor(scope, currency):
        raise ApiError(
            400,
            "You have insufficient funds in your Stripe account for this transfer.",
            code="balance_insufficient",
        )
    now = scope.wall_now()
    payout_id = scope.new_id("po_1")
    made_of = [
        transaction
        for transaction in scope.all("balance_transaction", currency=currency, status="available")
        if automatic and transaction["_sim"]["payout"] is None
    ]
    paid = balance.record(
        scope, "payout", -amount, currency, payout_id, description="STRIPE PAYOUT"
    )
    for transaction in (*made_of, paid):
        transaction["_sim"]["payout"] = payout_id
        scope.save(transaction)
    payout = scope.save(
        {
            "id": payout_id,
            "object": "payout",
            "amount": amount,
            "application_fee": None,
            "application_fee_amount": None,
            "arrival_date": now - now % DAY_SECONDS + ARRIVES_AFTER_SECONDS,
            "automatic": automatic,
            "balance_transaction": paid["id"],
            "created": now,
            "currency": currency,
            "description": fields.get("description") or "STRIPE PAYOUT",
            "destination": None,
            "failure_balance_transaction": None,
            "failure_code": None,
            "failure_message": None,
            "livemode": False,
            "metadata": fields.get("metadata") or {},
            "method": "standard",
            "original_payout": None,
            "payout_method": None,
            "reconciliation_status": "in_progress" if automatic else "not_applicable",
            "reversed_by": None,
            "source_type": "card",
            "statement_descriptor": fields.get("statement_descriptor"),
            "status": "pending",
            "trace_id": None,
            "type": "bank_account",
        }
    )
    emit(scope, "payout.created", payout)
    return payout


def pay_out_everything(scope: Scope, currency: str) -> Obj:
    """Create the automatic payout of all that is available in a currency.

    Raises:
        ApiError: nothing is available.
    """
    amount = available_minor(scope, currency)
    return build(scope, {"amount": amount, "currency": currency}, automatic=True)


def settle(scope: Scope, payout: Obj, failure_code: str | None = None) -> Obj:
    """Let a payout arrive, or fail: a failed one comes back to the balance.

    A bank may also send back what had arrived: a paid payout can still fail.

    Raises:
        ApiError: it has failed or was canceled, or arrived twice; or there is no such failure.
    """
    open_states = ("pending", "in_transit", "paid") if failure_code else ("pending", "in_transit")
    if payout["status"] not in open_states:
        raise invalid(f"This payout is {payout['status']}.", "id")
    if failure_code is not None and failure_code not in FAILURES:
        raise invalid(f"failure must be one of {', '.join(FAILURES)}", "failure")
    if failure_code is not None:
        _give_back(scope, payout, "payout_failure", "failed")
        payout |= {"failure_code": failure_code, "failure_message": FAILURES[failure_code]}
        emit(scope, "payout.failed", payout)
        return payout
    payout["status"] = "paid"
    if payout["automatic"]:
        payout["reconciliation_status"] = "completed"
    scope.save(payout)
    emit(scope, "payout.paid", payout)
    if payout["automatic"]:
        emit(scope, "payout.reconciliation_completed", payout)
    return payout


def send_off(scope: Scope, payout: Obj) -> Obj:
    """Let a pending payout be on its way to the bank.

    Raises:
        ApiError: it is not pending any more.
    """
    if payout["status"] != "pending":
        raise invalid(f"This payout is {payout['status']}.", "id")
    payout["status"] = "in_transit"
    scope.save(payout)
    emit(scope, "payout.updated", payout)
    return payout


def cancel(scope: Scope, payout: Obj) -> Obj:
    """Cancel a payout that is still pending.

    Raises:
        ApiError: it is not pending any more.
    """
    if payout["status"] != "pending" or payout["automatic"]:
        raise invalid("Payouts can only be canceled manually created, and while pending.", "id")
    _give_back(scope, payout, "payout_cancel", "canceled")
    emit(scope, "payout.canceled", payout)
    return payout


def _give_back(scope: Scope, payout: Obj, kind: str, status: str) -> None:
    back = balance.record(scope, kind, payout["amount"], payout["currency"], payout["id"])
    payout |= {"status": status, "failure_balance_transaction": back["id"]}
    scope.save(payout)
