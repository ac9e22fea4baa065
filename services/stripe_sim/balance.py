"""Balance transactions: every movement of an account's money, and the balance they add up to."""

from typing import Any

from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

AVAILABLE_AFTER_SECONDS = 2 * DAY_SECONDS
"""Charges become available two days later; everything else at once."""

_CATEGORIES = {
    "charge": "charge",
    "payment": "charge",
    "refund": "refund",
    "payment_refund": "refund",
    "refund_failure": "refund_failure",
    "adjustment": "dispute",
    "payout": "payout",
    "payout_failure": "payout_reversal",
    "payout_cancel": "payout_reversal",
    "application_fee": "platform_earning",
    "application_fee_refund": "platform_earning_refund",
    "stripe_fee": "fee",
}


def record(
    scope: Scope,
    kind: str,
    amount: int,
    currency: str,
    source: str | None,
    *,
    fees: list[dict[str, Any]] | None = None,
    description: str | None = None,
    immediately: bool = False,
    category: str | None = None,
) -> Obj:
    """Record a movement; `amount` is signed, its net is the amount less the fees.

    Payments live in real time even where their customer is on a test clock, as at Stripe.
    """
    now = scope.wall_now()
    fee = sum(detail["amount"] for detail in fees or [])
    waits = kind in ("charge", "payment") and not immediately
    return scope.save(
        {
            "id": scope.new_id("txn_3"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": now + AVAILABLE_AFTER_SECONDS if waits else now,
            "balance_type": "payments",
            "created": now,
            "currency": currency,
            "description": description,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": fees or [],
            "net": amount - fee,
            "reporting_category": category or _CATEGORIES.get(kind, kind),
            "source": source,
            "status": "pending" if waits else "available",
            "type": kind,
            "_sim": {"payout": None},
        }
    )


def fee_detail(amount: int, currency: str, kind: str, description: str) -> dict[str, Any]:
    """Return one entry of a balance transaction's `fee_details`."""
    return {
        "amount": amount,
        "application": None,
        "currency": currency,
        "description": description,
        "type": kind,
    }


def release(scope: Scope) -> None:
    """Make available what has waited long enough."""
    now = scope.wall_now()
    for transaction in scope.all("balance_transaction", status="pending"):
        if transaction["available_on"] <= now:
            transaction["status"] = "available"
            scope.save(transaction)


def release_all(scope: Scope) -> int:
    """Make everything that is pending available at once; return how many movements that was."""
    waiting = scope.all("balance_transaction", status="pending")
    for transaction in waiting:
        transaction |= {"status": "available", "available_on": scope.wall_now()}
        scope.save(transaction)
    if waiting:
        emit(scope, "balance.available", current(scope))
    return len(waiting)


def current(scope: Scope) -> Obj:
    """Return the balance: the sum of the net amounts of all transactions, by currency."""
    release(scope)
    sums: dict[str, dict[str, int]] = {"available": {}, "pending": {}}
    for transaction in scope.all("balance_transaction"):
        by_currency = sums[transaction["status"]]
        currency = transaction["currency"]
        by_currency[currency] = by_currency.get(currency, 0) + transaction["net"]
    currencies = sorted(
        {*sums["available"], *sums["pending"], scope.own_account["default_currency"]}
    )
    return {
        "object": "balance",
        **{
            status: [
                {"amount": amount, "currency": currency, "source_types": {"card": amount}}
                for currency in currencies
                for amount in [by_currency.get(currency, 0)]
            ]
            for status, by_currency in sums.items()
        },
        "livemode": False,
        "refund_and_dispute_prefunding": {"available": [], "pending": []},
    }
