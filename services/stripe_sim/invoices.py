"""Invoices: drafts that are filled, numbered when finalized, and paid, voided or written off."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import customer_balance, discounts, invoice_totals, money, payment_intents
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import DAY_SECONDS, HOUR_SECONDS
from services.stripe_sim.render import listing, on_request, page
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

DRAFT_SECONDS = HOUR_SECONDS
"""A draft with `auto_advance` is finalized this long after its creation, in clock time."""


_TRANSITIONS = ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")

_ZERO = (
    "amount_due",
    "amount_overpaid",
    "amount_paid",
    "amount_remaining",
    "amount_shipping",
    "attempt_count",
    "post_payment_credit_notes_amount",
    "pre_payment_credit_notes_amount",
    "subtotal",
    "subtotal_excluding_tax",
    "total",
    "total_excluding_tax",
)
"""Amounts and counts of an empty draft."""

_UNSET = (
    "account_tax_ids",
    "application",
    "default_source",
    "effective_at",
    "ending_balance",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "number",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "threshold_reason",
    "webhooks_delivered_at",
)
"""Fields of an invoice that are null until something sets them."""


def build(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Create an empty draft for a customer.

    `fields`: currency, billing_reason, subscription (object), period_start, period_end,
    auto_advance, collection_method, days_until_due and what the API lets a caller set.
    """
    now = scope.now(customer["test_clock"])
    subscription = fields.get("subscription")
    account = scope.own_account
    invoice_id = scope.new_id("in_1")
    invoice: Obj = {
        "id": invoice_id,
        "object": "invoice",
        **dict.fromkeys(_UNSET),
        **dict.fromkeys(_ZERO, 0),
        "account_country": account["country"],
        "account_name": account["settings"]["dashboard"]["display_name"],
        "attempted": False,
        "auto_advance": bool(fields.get("auto_advance")),
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": fields.get("billing_reason") or "manual",
        "collection_method": fields.get("collection_method") or "charge_automatically",
        "created": now,
        "currency": fields["currency"],
        "custom_fields": fields.get("custom_fields"),
        "customer": customer["id"],
        **customer_facts(customer),
        "default_payment_method": fields.get("default_payment_method"),
        "default_tax_rates": fields.get("default_tax_rates")
        or (subscription or {}).get("default_tax_rates")
        or [],
        "description": fields.get("description"),
        "discounts": discounts.current(scope, subscription, now) if subscription else [],
        **_dates(fields, now),
        "footer": fields.get("footer"),
        "issuer": {"type": "self"},
        "lines": listing(f"/v1/invoices/{invoice_id}/lines", []),
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "parent": _parent(subscription) if subscription else None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": fields.get("period_end", now),
        "period_start": fields.get("period_start", now),
        "starting_balance": customer["balance"],
        "statement_descriptor": fields.get("statement_descriptor"),
        "status": "draft",
        "status_transitions": dict.fromkeys(_TRANSITIONS),
        "test_clock": customer["test_clock"],
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "_sim": {
            "application_fee_amount": fields.get("application_fee_amount"),
            "application_fee_percent": (subscription or {}).get("application_fee_percent"),
        },
    }
    return scope.save(invoice)


def _dates(fields: dict[str, Any], now: int) -> dict[str, int | None]:
    """Return when a draft made now is due, is finalized and is first charged."""
    due_date, days = fields.get("due_date"), fields.get("days_until_due")
    if due_date is None and days is not None:
        due_date = now + days * DAY_SECONDS
    wanted = fields.get("automatically_finalizes_at") or now + DRAFT_SECONDS
    finalized_at = wanted if fields.get("auto_advance") else None
    charged = fields.get("collection_method") != "send_invoice"
    return {
        "due_date": due_date,
        "automatically_finalizes_at": finalized_at,
        "next_payment_attempt": finalized_at if charged else None,
    }


def customer_facts(customer: Obj) -> dict[str, Any]:
    """Return the customer's particulars as an invoice carries them, fixed when it is finalized."""
    return {
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
    }


def _parent(subscription: Obj) -> dict[str, Any]:
    return {
        "quote_details": None,
        "subscription_details": {
            "metadata": dict(subscription["metadata"]),
            "subscription": subscription["id"],
        },
        "type": "subscription_details",
    }


def subscription_of(invoice: Obj) -> str | None:
    """Return the id of the subscription an invoice belongs to."""
    parent = invoice["parent"]
    return parent["subscription_details"]["subscription"] if parent else None


def require_draft(invoice: Obj) -> None:
    """Refuse to change what is final.

    Raises:
        ApiError: the invoice is no draft any more.
    """
    if invoice["status"] != "draft":
        raise ApiError(
            400,
            "This invoice is no longer editable: only draft invoices can be changed this way.",
            code="invoice_not_editable",
            param="invoice",
        )


def finalize(scope: Scope, invoice: Obj, *, auto_advance: bool | None = None) -> Obj:
    """Make a draft final: number, customer balance, payment intent and invoice payment.

    An invoice that comes to nothing is paid at once. Collecting is the caller's next step.

    Raises:
        ApiError: it is final already.
    """
    if invoice["status"] != "draft":
        raise invalid(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
            code="invoice_not_editable",
        )
    customer = scope.get("customer", invoice["customer"])
    now = scope.now(invoice["test_clock"])
    invoice_totals.recompute(scope, invoice)
    _apply_balance(scope, invoice, customer)
    if auto_advance is not None:
        invoice["auto_advance"] = auto_advance
    if invoice["number"] is None:
        invoice["number"] = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
        customer["next_invoice_sequence"] += 1
        scope.save(customer)
    page_url = f"{scope.sandbox.settings.public_url}/invoices/{scope.account}/{invoice['id']}"
    invoice |= {
        **customer_facts(customer),
        "status": "open",
        "effective_at": now,
        "automatically_finalizes_at": None,
        "next_payment_attempt": None,
        "hosted_invoice_url": page_url,
        "invoice_pdf": f"{page_url}/pdf",
    }
    invoice["status_transitions"]["finalized_at"] = now
    scope.save(invoice)
    if invoice["amount_due"] > 0:
        _request_payment(scope, invoice)
    emit(scope, "invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        mark_paid(scope, invoice, attempted=True)
    return invoice


def _apply_balance(scope: Scope, invoice: Obj, customer: Obj) -> None:
    """Use the customer's balance (negative: credit) and leave what the invoice does not take."""
    combined = invoice["total"] + customer["balance"]
    invoice["starting_balance"] = customer["balance"]
    invoice["ending_balance"] = min(combined, 0)
    invoice["amount_due"] = invoice["amount_remaining"] = max(combined, 0)
    used = invoice["ending_balance"] - customer["balance"]
    if used:
        facts = {"currency": invoice["currency"], "invoice": invoice["id"]}
        customer_balance.change(scope, customer, used, "applied_to_invoice", facts)


def _request_payment(scope: Scope, invoice: Obj) -> None:
    amount = invoice["amount_due"]
    intent = payment_intents.build(
        scope,
        {
            "amount": amount,
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "description": "Subscription creation"
            if invoice["billing_reason"] == "subscription_create"
            else f"Payment for Invoice {invoice['number']}",
            "application_fee_amount": _application_fee(invoice),
            "invoice": invoice["id"],
        },
    )
    invoice["_sim"]["payment_intent"] = intent["id"]
    scope.save(
        {
            "id": scope.new_id("inpay_1"),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": amount,
            "created": scope.now(invoice["test_clock"]),
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )


def _application_fee(invoice: Obj) -> int | None:
    fixed, rate = (
        invoice["_sim"][name] for name in ("application_fee_amount", "application_fee_percent")
    )
    if fixed is not None:
        return int(fixed)
    return money.percent(invoice["amount_due"], Decimal(str(rate))) if rate else None


def payments_of(scope: Scope, invoice: Obj) -> list[Obj]:
    """Return the invoice's payments, oldest first."""
    return scope.all("invoice_payment", invoice=invoice["id"])


def open_intent(scope: Scope, invoice: Obj) -> Obj:
    """Return the payment intent an open invoice is to be paid by."""
    return scope.get("payment_intent", invoice["_sim"]["payment_intent"])


def mark_paid(
    scope: Scope, invoice: Obj, *, attempted: bool = False, out_of_band: bool = False
) -> None:
    """Record that an open invoice is paid in full."""
    now = scope.now(invoice["test_clock"])
    paid = invoice["amount_remaining"]
    invoice |= {
        "status": "paid",
        "attempted": True,
        "amount_paid": invoice["amount_paid"] + (0 if out_of_band else paid),
        "amount_remaining": 0,
        "next_payment_attempt": None,
        "auto_advance": False,
    }
    if attempted and paid == 0:
        invoice["attempt_count"] = 0
    invoice["status_transitions"]["paid_at"] = now
    scope.save(invoice)
    for payment in payments_of(scope, invoice):
        if payment["status"] == "open":
            payment["status"] = "canceled" if out_of_band else "paid"
            payment["amount_paid"] = None if out_of_band else payment["amount_requested"]
            stamp = "canceled_at" if out_of_band else "paid_at"
            payment["status_transitions"][stamp] = now
            scope.save(payment)
            if not out_of_band:
                emit(scope, "invoice_payment.paid", payment)
    emit(scope, "invoice.updated", invoice, {"status": "open"})
    emit(scope, "invoice.paid", invoice)
    emit(scope, "invoice.payment_succeeded", invoice)


def end(scope: Scope, invoice: Obj, status: str) -> Obj:
    """Void an open invoice or mark it uncollectible.

    Raises:
        ApiError: its status does not allow that.
    """
    allowed = ("open", "uncollectible") if status == "void" else ("open",)
    if invoice["status"] not in allowed:
        raise invalid(
            f"You can only {'void' if status == 'void' else 'mark'} invoices that are "
            f"{' or '.join(allowed)}; this one is {invoice['status']}.",
            code="invoice_not_editable",
        )
    now = scope.now(invoice["test_clock"])
    stamp = "voided_at" if status == "void" else "marked_uncollectible_at"
    invoice |= {"status": status, "next_payment_attempt": None, "auto_advance": False}
    invoice["status_transitions"][stamp] = now
    if status == "void":
        invoice["amount_remaining"] = 0
        _cancel_payments(scope, invoice, now)
    scope.save(invoice)
    emit(scope, "invoice.voided" if status == "void" else "invoice.marked_uncollectible", invoice)
    return invoice


def _cancel_payments(scope: Scope, invoice: Obj, now: int) -> None:
    for payment in payments_of(scope, invoice):
        if payment["status"] == "open":
            payment["status"] = "canceled"
            payment["status_transitions"]["canceled_at"] = now
            scope.save(payment)
            intent = open_intent(scope, invoice)
            if intent["status"] in payment_intents.CANCELABLE:
                payment_intents.cancel(scope, intent, "void_invoice")


@on_request("invoice", "payments")
def _payments(scope: Scope, invoice: Obj) -> Obj:
    return page(scope, payments_of(scope, invoice), {}, "/v1/invoice_payments")


@on_request("invoice", "confirmation_secret")
def _confirmation_secret(scope: Scope, invoice: Obj) -> dict[str, Any] | None:
    if "payment_intent" not in invoice["_sim"]:
        return None
    intent = open_intent(scope, invoice)
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}
