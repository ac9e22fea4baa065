"""Taking the money of an invoice, and what its outcome does to the subscription."""

from typing import Any

from services.stripe_sim import discounts, invoices, payment_intents, payment_methods, subscriptions
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

RETRY_DAYS = (3, 5, 7)
"""Days to the next attempt after the first, second and third failure; then the account's rule."""


def default_method(scope: Scope, invoice: Obj) -> Obj | None:
    """Return the payment method an invoice is charged to by default."""
    customer = scope.get("customer", invoice["customer"])
    subscription = scope.find("subscription", invoices.subscription_of(invoice))
    for method_id in (
        invoice["default_payment_method"],
        (subscription or {}).get("default_payment_method"),
        customer["invoice_settings"]["default_payment_method"],
    ):
        if method_id is not None:
            return scope.find("payment_method", method_id)
    return None


def collect(
    scope: Scope,
    invoice: Obj,
    method: Obj | None = None,
    *,
    payer_present: bool = False,
    authenticated: bool = False,
    lenient: bool = False,
) -> ApiError | None:
    """Try to take what an open invoice asks for; return the decline, if it was one.

    Without a payment method nothing is charged and the attempt has failed all the same.
    """
    if invoice["status"] != "open" or invoice["amount_remaining"] == 0:
        return None
    method = method or default_method(scope, invoice)
    intent = invoices.open_intent(scope, invoice)
    if intent["status"] == "processing":
        return invalid("A payment of this invoice is being processed.", code="invoice_not_editable")
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    scope.save(invoice)
    if method is None:
        error = invalid(
            "This customer has no attached payment source or default payment method.",
            "customer",
            "resource_missing",
        )
        payment_failed(scope, invoice)
        return error
    decline = payment_intents.attempt(
        scope,
        intent,
        method,
        payer_present=payer_present,
        authenticated=authenticated,
        lenient=lenient,
    )
    after_attempt(scope, intent)
    return decline


def after_attempt(scope: Scope, intent: Obj) -> None:
    """Carry the outcome of a payment intent over to its invoice and subscription."""
    invoice = scope.find("invoice", intent["_sim"]["invoice"])
    if invoice is None or invoice["status"] != "open":
        return
    if intent["status"] == "succeeded":
        invoices.mark_paid(scope, invoice)
        invoice_settled(scope, invoice)
    elif intent["status"] == "processing":
        payment_pending(scope, invoice)
    elif intent["status"] == "requires_payment_method":
        payment_failed(scope, invoice)
    elif intent["status"] == "requires_action":
        emit(scope, "invoice.payment_action_required", invoice)
        payment_failed(scope, invoice)


def payment_pending(scope: Scope, invoice: Obj) -> None:
    """Let a subscription begin while its first, slow payment is still on its way."""
    subscription = scope.find("subscription", invoices.subscription_of(invoice))
    if subscription is not None and subscription["status"] == "incomplete":
        subscriptions.set_status(scope, subscription, "active")


def invoice_settled(scope: Scope, invoice: Obj) -> None:
    """Bring the subscription back in order once its invoice is paid."""
    subscription = scope.find("subscription", invoices.subscription_of(invoice))
    if subscription is None:
        return
    status = subscription["status"]
    latest = subscription["latest_invoice"] == invoice["id"]
    if status == "incomplete" or (status in ("past_due", "unpaid") and latest):
        subscriptions.set_status(scope, subscription, "active")


def payment_failed(scope: Scope, invoice: Obj) -> None:
    """Record a failed attempt: the next one is scheduled, the subscription is past due."""
    now = scope.now(invoice["test_clock"])
    failures = invoice["attempt_count"]
    automatic = invoice["auto_advance"] and failures <= len(RETRY_DAYS)
    invoice["next_payment_attempt"] = (
        now + RETRY_DAYS[failures - 1] * DAY_SECONDS if automatic else None
    )
    scope.save(invoice)
    emit(scope, "invoice.payment_failed", invoice)
    subscription = scope.find("subscription", invoices.subscription_of(invoice))
    if subscription is None or subscription["status"] not in ("active", "past_due"):
        return
    if failures <= len(RETRY_DAYS):
        subscriptions.set_status(scope, subscription, "past_due")
        return
    rule = scope.own_account["_sim"]["after_retries"]
    if rule == "cancel":
        subscriptions.cancel(scope, subscription, "payment_failed", {})
    else:
        subscriptions.set_status(scope, subscription, rule)


def finalize_and_collect(scope: Scope, invoice: Obj, *, auto_advance: bool | None = None) -> Obj:
    """Finalize a draft and, where it advances by itself, charge it at once."""
    invoices.finalize(scope, invoice, auto_advance=auto_advance)
    if invoice["status"] == "paid":
        invoice_settled(scope, invoice)
    elif invoice["auto_advance"] and invoice["collection_method"] == "charge_automatically":
        collect(scope, invoice)
    elif invoice["auto_advance"]:
        emit(scope, "invoice.sent", invoice)
    return invoice


def pay(scope: Scope, invoice: Obj, fields: dict[str, Any]) -> Obj:
    """Pay an invoice on request; a draft is finalized first.

    Raises:
        ApiError: it is paid or void, there is nothing to charge, or the charge was declined.
    """
    if invoice["status"] == "draft":
        invoices.finalize(scope, invoice)
        if invoice["status"] == "paid":
            invoice_settled(scope, invoice)
            return invoice
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(f"You cannot pay an invoice that is {invoice['status']}.")
    if fields.get("paid_out_of_band"):
        intent = invoices.open_intent(scope, invoice)
        if intent["status"] in payment_intents.CANCELABLE:
            payment_intents.cancel(scope, intent, "automatic")
        invoices.mark_paid(scope, invoice, out_of_band=True)
        invoice_settled(scope, invoice)
        return invoice
    invoice["status"] = "open"
    method_id = fields.get("payment_method")
    method = payment_methods.resolve(scope, method_id) if method_id else None
    decline = collect(scope, invoice, method, payer_present=fields.get("off_session") is False)
    if decline is not None:
        raise decline
    return invoice


def start_invoice(
    scope: Scope, subscription: Obj, reason: str, *, auto_advance: bool, period: tuple[int, int]
) -> Obj:
    """Create a subscription's draft; `period` is what its `period_start` and `_end` say."""
    customer = scope.get("customer", subscription["customer"])
    invoice = invoices.build(
        scope,
        customer,
        {
            "currency": subscription["currency"],
            "billing_reason": reason,
            "subscription": subscription,
            "collection_method": subscription["collection_method"],
            "days_until_due": subscription["days_until_due"],
            "auto_advance": auto_advance,
            "period_start": period[0],
            "period_end": period[1],
        },
    )
    discounts.used_once(scope, subscription)
    subscription["latest_invoice"] = invoice["id"]
    scope.save(subscription)
    return invoice
