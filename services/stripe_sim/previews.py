"""What an invoice would be: the change is made, looked at and taken back."""

import copy
from typing import Any

from services.stripe_sim import invoice_items, renewals, subscription_changes
from services.stripe_sim.errors import invalid
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def preview(scope: Scope, customer: Obj, subscription: Obj | None, fields: dict[str, Any]) -> Obj:
    """Return the next invoice of a subscription, or the first of a new one, as it would be.

    Everything is done for real and rolled back, so that a preview and the invoice agree. With
    `proration_behavior=always_invoice` the invoice of the change itself is shown.

    Raises:
        ApiError: the change would be refused too, or there is nothing to invoice.
    """
    known = {invoice["id"] for invoice in scope.all("invoice")}
    try:
        for wish in fields.get("invoice_items") or []:
            invoice_items.create(scope, customer, wish)
        if subscription is None:
            renewals.subscribe(
                scope, customer, {**fields, "payment_behavior": "default_incomplete"}
            )
        else:
            _change(scope, subscription, fields)
        fresh = [invoice for invoice in scope.all("invoice") if invoice["id"] not in known]
        if not fresh:
            raise invalid("Nothing to invoice for subscription", code="invoice_upcoming_none")
        shown = copy.deepcopy(fresh[0])
    finally:
        scope.sandbox.store.rollback()
    return _as_preview(shown)


def _change(scope: Scope, subscription: Obj, fields: dict[str, Any]) -> None:
    changes = {**fields, "payment_behavior": "default_incomplete"}
    changes.pop("invoice_items", None)
    known = len(scope.all("invoice"))
    if changes:
        subscription_changes.update(scope, subscription, changes)
    billed_now = len(scope.all("invoice")) > known
    if not billed_now:
        renewals.renew(scope, subscription)


def _as_preview(invoice: Obj) -> Obj:
    return {
        **invoice,
        "id": "upcoming_" + invoice["id"],
        "status": "draft",
        "number": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "amount_paid": 0,
        "amount_remaining": invoice["amount_due"],
        "attempted": False,
        "attempt_count": 0,
        "automatically_finalizes_at": None,
        "effective_at": None,
        "status_transitions": dict.fromkeys(invoice["status_transitions"]),
    }
