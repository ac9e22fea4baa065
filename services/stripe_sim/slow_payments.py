"""Payments that stay `processing` for a while, such as SEPA debits, and their outcome."""

from collections.abc import Iterator

from services.stripe_sim import checkout, collection, payment_intents
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

FAILING_LAST4 = "3202"
"""Payments from a bank account that ends in these digits fail after processing."""


def settle(scope: Scope, intent: Obj, *, succeeds: bool) -> None:
    """Let a processing payment succeed or fail, with all that hangs on it.

    Raises:
        ApiError: it is not processing.
    """
    payment_intents.finish_processing(scope, intent, succeeds=succeeds)
    collection.after_attempt(scope, intent)
    session = scope.find(checkout.KIND, intent["_sim"]["session"])
    if session is None:
        return
    if succeeds:
        session["payment_status"] = "paid"
        scope.save(session)
        emit(scope, "checkout.session.async_payment_succeeded", session)
    else:
        emit(scope, "checkout.session.async_payment_failed", session)


def due(scope: Scope, now: int) -> Iterator[tuple[Obj, bool]]:
    """Yield (intent, whether it succeeds) for what has been processing long enough."""
    wait = scope.sandbox.settings.slow_payment_seconds
    for intent in scope.all("payment_intent", status="processing"):
        charge = scope.get("charge", intent["latest_charge"])
        if charge["created"] + wait <= now:
            details = charge["payment_method_details"]
            last4 = details[details["type"]].get("last4")
            yield intent, last4 != FAILING_LAST4
