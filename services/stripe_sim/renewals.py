"""The life of a subscription: its start, its renewals, and what falls due meanwhile."""

from typing import Any

from services.stripe_sim import (
    collection,
    discounts,
    invoice_items,
    invoices,
    meters,
    payment_methods,
    subscriptions,
)
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import next_boundary
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def subscribe(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Create a subscription with its first invoice and try to collect it.

    `fields["payment_behavior"]`: `allow_incomplete` (default), `default_incomplete`,
    `error_if_incomplete` or, on the hosted page, `hosted`: paid there or not at all.

    Raises:
        ApiError: the customer has no way to pay, or the payment failed and that is an error.
    """
    subscription = subscriptions.build(scope, customer, fields)
    for coupon, promotion in fields.get("redeems") or []:
        give_discount(scope, subscription, coupon, promotion)
    behavior = fields.get("payment_behavior") or "allow_incomplete"
    automatic = subscription["collection_method"] == "charge_automatically"
    start, end = subscriptions.period_of(subscription)
    invoice = collection.start_invoice(
        scope, subscription, "subscription_create", auto_advance=True, period=(start, start)
    )
    subscriptions.bill_period(scope, invoice, subscription, start, end)
    for price, quantity in fields.get("one_off") or []:
        _add_one_off(scope, invoice, price, quantity)
    _take_pending(scope, invoice, subscription)
    if not automatic and subscription["status"] == "incomplete":
        subscription["status"] = "active"
    emit(scope, "customer.subscription.created", subscription)
    emit(scope, "invoice.created", invoice)
    if not automatic:
        return subscription
    _first_payment(scope, invoice, behavior, fields)
    return subscription


def give_discount(scope: Scope, subscription: Obj, coupon: Obj, promotion: Obj | None) -> None:
    """Redeem a coupon on a subscription."""
    owner = {
        "customer": subscription["customer"],
        "subscription": subscription["id"],
        "test_clock": subscription["test_clock"],
    }
    discount = discounts.redeem(scope, coupon, promotion, owner)
    subscription["discounts"] = [*subscription["discounts"], discount["id"]]
    scope.save(subscription)


def _first_payment(scope: Scope, invoice: Obj, behavior: str, fields: dict[str, Any]) -> None:
    invoices.finalize(scope, invoice)
    if invoice["status"] == "paid":
        collection.invoice_settled(scope, invoice)
        return
    if behavior == "default_incomplete":
        return
    if collection.default_method(scope, invoice) is None:
        raise invalid(
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a default payment method. For more information, visit "
            "https://stripe.com/docs/billing/subscriptions/payment-methods-setting.",
            "customer",
            "resource_missing",
        )
    hosted = behavior == "hosted"
    decline = collection.collect(
        scope,
        invoice,
        payer_present=not fields.get("off_session"),
        lenient=hosted,
        authenticated=hosted and bool(fields.get("authenticated")),
    )
    if decline is not None and (hosted or behavior == "error_if_incomplete"):
        raise ApiError(
            decline.status,
            decline.message,
            kind=decline.kind,
            code=decline.code,
            decline_code=decline.details.get("decline_code"),
        )


def _add_one_off(scope: Scope, invoice: Obj, price: Obj, quantity: int) -> None:
    """Put a one-time price of a checkout on the first invoice."""
    customer = scope.get("customer", invoice["customer"])
    description = scope.get("product", price["product"])["name"]
    invoice_items.create(
        scope,
        customer,
        {"invoice": invoice, "price": price, "quantity": quantity, "description": description},
    )


def _take_pending(scope: Scope, invoice: Obj, subscription: Obj) -> None:
    for item in invoice_items.pending(scope, subscription["customer"], subscription["id"]):
        if item["currency"] == invoice["currency"]:
            invoice_items.put_on(scope, item, invoice)


def renew(scope: Scope, subscription: Obj) -> None:
    """Begin the next period at the end of the current one, with a draft for it.

    The draft's `period_start` and `period_end` are the period just ended; its lines bear the
    next one. It stays a draft for an hour unless `auto_advance` is taken off it.
    """
    start, end = subscriptions.period_of(subscription)
    if subscription["cancel_at_period_end"]:
        subscriptions.cancel(
            scope, subscription, "cancellation_requested", subscription["cancellation_details"]
        )
        return
    was_trial = subscription["status"] == "trialing"
    interval, count = subscriptions.interval_of(subscription)
    next_end = next_boundary(subscription["billing_cycle_anchor"], interval, count, end)
    previous: dict[str, Any] = {
        "items": {
            "data": [
                {"id": item["id"], "current_period_start": start, "current_period_end": end}
                for item in subscription["items"]["data"]
            ]
        },
        "latest_invoice": subscription["latest_invoice"],
    }
    if was_trial and not _leave_trial(scope, subscription, previous):
        return
    subscriptions.set_period(subscription, end, next_end)
    collecting = subscription["pause_collection"] is None and subscription["status"] != "unpaid"
    invoice = collection.start_invoice(
        scope, subscription, "subscription_cycle", auto_advance=collecting, period=(start, end)
    )
    subscriptions.bill_period(scope, invoice, subscription, end, next_end)
    if not was_trial:
        meters.bill(scope, invoice, subscription, start, end)
    _take_pending(scope, invoice, subscription)
    scope.save(subscription)
    emit(scope, "customer.subscription.updated", subscription, previous)
    emit(scope, "invoice.created", invoice)
    pause = subscription["pause_collection"]
    if pause and pause["behavior"] == "void":
        invoices.finalize(scope, invoice)
        if invoice["status"] == "open":
            invoices.end(scope, invoice, "void")
    elif pause and pause["behavior"] == "mark_uncollectible":
        invoices.finalize(scope, invoice)
        if invoice["status"] == "open":
            invoices.end(scope, invoice, "uncollectible")


def _leave_trial(scope: Scope, subscription: Obj, previous: dict[str, Any]) -> bool:
    """End the trial; return whether billing goes on."""
    rule = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    customer = scope.get("customer", subscription["customer"])
    has_method = (
        subscription["default_payment_method"]
        or customer["invoice_settings"]["default_payment_method"]
        or subscription["collection_method"] == "send_invoice"
    )
    if not has_method and rule == "cancel":
        subscriptions.cancel(scope, subscription, None, {})
        return False
    if not has_method and rule == "pause":
        subscriptions.set_status(scope, subscription, "paused")
        emit(scope, "customer.subscription.paused", subscription)
        return False
    previous["status"] = "trialing"
    subscription["status"] = "active"
    return True


def expire_incomplete(scope: Scope, subscription: Obj) -> None:
    """End a subscription whose first payment never came."""
    invoice = scope.find("invoice", subscription["latest_invoice"])
    if invoice is not None and invoice["status"] == "open":
        invoices.end(scope, invoice, "void")
    now = scope.now(subscription["test_clock"])
    subscriptions.set_status(scope, subscription, "incomplete_expired", ended_at=now)


def use_method(scope: Scope, customer: Obj, method_id: str) -> Obj:
    """Return a payment method for a customer's subscription, attached where it was not."""
    method = payment_methods.resolve(scope, method_id, "default_payment_method")
    if method["customer"] != customer["id"]:
        payment_methods.attach(scope, method, customer["id"])
    return method
