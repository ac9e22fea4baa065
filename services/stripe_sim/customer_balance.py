"""A customer's balance (negative: credit) and the entries it is made of."""

from typing import Any

from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

KIND = "customer_balance_transaction"


def change(
    scope: Scope, customer: Obj, amount: int, kind: str, fields: dict[str, Any] | None = None
) -> Obj:
    """Change a customer's balance by a signed amount and keep the entry."""
    fields = fields or {}
    previous = {"balance": customer["balance"]}
    customer["balance"] += amount
    currency = fields.get("currency") or customer["currency"]
    if customer["currency"] is None:
        customer["currency"] = currency
    scope.save(customer)
    entry = scope.save(
        {
            "id": scope.new_id("cbtxn_1"),
            "object": KIND,
            "amount": amount,
            "checkout_session": None,
            "created": scope.now(customer["test_clock"]),
            "credit_note": fields.get("credit_note"),
            "currency": currency or scope.own_account["default_currency"],
            "customer": customer["id"],
            "description": fields.get("description"),
            "ending_balance": customer["balance"],
            "invoice": fields.get("invoice"),
            "livemode": False,
            "metadata": fields.get("metadata") or {},
            "type": kind,
        }
    )
    emit(scope, "customer.updated", customer, previous)
    return entry
