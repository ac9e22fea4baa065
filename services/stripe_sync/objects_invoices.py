"""Subscriptions and invoices of Stripe in the product's words: pure functions.

The model is that of API version 2026-10-28.endive: periods stand on subscription items, an invoice
names its subscription under `parent`.
"""

from datetime import datetime
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.stripe_sync import (
    StripeInvoiceChanged,
    StripeInvoiceLine,
    StripeSubscriptionChanged,
)
from libs.ids import parse_uuid
from libs.money import from_stripe
from services.stripe_sync.objects import (
    Json,
    UnreadableObjectError,
    id_of,
    named,
    required,
    time_of,
)


def subscription_of(invoice: Json) -> str | None:
    """The subscription an invoice bills."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription"))


def wants_holding(invoice: Json) -> bool:
    """Whether a draft is the cycle invoice of a subscription of ours that would go out without us.

    Only cycle drafts are held: first and proration invoices are final at once and carry no usage.
    """
    return (
        invoice.get("status") == "draft"
        and invoice.get("billing_reason") == "subscription_cycle"
        and bool(invoice.get("auto_advance"))
        and is_managed(invoice)
    )


def is_managed(raw: Json) -> bool:
    """Whether an object belongs to a subscription that Sluice sold."""
    return named(raw, "plan_version_id") is not None and named(raw, "tenant_id") is not None


def subscription_fact(
    raw: Json, *, account: str, customer_id: UUID, version: int
) -> StripeSubscriptionChanged:
    """What is said of a subscription.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        start, end = period_of(raw)
        return StripeSubscriptionChanged(
            version=version,
            account=account,
            stripe_subscription_id=raw["id"],
            stripe_customer_id=required(id_of(raw["customer"])),
            customer_id=customer_id,
            plan_version_id=named(raw, "plan_version_id"),
            status=raw["status"],
            period_start=start,
            period_end=end,
            cancel_at_period_end=raw["cancel_at_period_end"],
            ended_at=time_of(raw.get("ended_at")),
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UnreadableObjectError(f"subscription: {error!r}") from None


def period_of(subscription: Json) -> tuple[datetime, datetime]:
    """The current period of a subscription, which stands on its items."""
    item = subscription["items"]["data"][0]
    return from_unix(item["current_period_start"]), from_unix(item["current_period_end"])


def invoice_fact(
    raw: Json, *, account: str, customer_id: UUID, version: int
) -> StripeInvoiceChanged:
    """What is said of an invoice; `raw` holds all of its lines.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        times = raw["status_transitions"]
        return StripeInvoiceChanged(
            version=version,
            account=account,
            stripe_invoice_id=raw["id"],
            stripe_subscription_id=subscription_of(raw),
            stripe_customer_id=required(id_of(raw["customer"])),
            customer_id=customer_id,
            billing_reason=raw["billing_reason"] or "manual",
            status=raw["status"],
            held=raw["status"] == "draft" and not raw["auto_advance"],
            number=raw["number"],
            currency=currency.upper(),
            total_minor=from_stripe(raw["total"], currency).amount_minor,
            amount_paid_minor=from_stripe(raw["amount_paid"], currency).amount_minor,
            period_start=from_unix(raw["period_start"]),
            period_end=from_unix(raw["period_end"]),
            lines=tuple(_line(line, currency) for line in raw["lines"]["data"]),
            hosted_invoice_url=raw.get("hosted_invoice_url"),
            finalized_at=time_of(times["finalized_at"]),
            paid_at=time_of(times["paid_at"]),
            credited_minor=from_stripe(
                raw.get("pre_payment_credit_notes_amount") or 0, currency
            ).amount_minor,
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UnreadableObjectError(f"invoice: {error!r}") from None


def _line(raw: Json, currency: str) -> StripeInvoiceLine:
    parent = raw.get("parent") or {}
    details = parent.get(parent.get("type") or "") or {}
    price = ((raw.get("pricing") or {}).get("price_details") or {}).get("price")
    return StripeInvoiceLine(
        stripe_line_id=raw["id"],
        description=raw["description"] or "",
        amount_minor=from_stripe(raw["amount"], currency).amount_minor,
        proration=bool(details.get("proration")),
        price_id=id_of(price),
        line_id=line_id_of(raw),
        period_start=from_unix(raw["period"]["start"]),
        period_end=from_unix(raw["period"]["end"]),
    )


def line_id_of(line: Json) -> UUID | None:
    """Our id of a line that we added."""
    text = (line.get("metadata") or {}).get("line_id")
    return parse_uuid(text) if isinstance(text, str) else None


def invoice_time(raw: Json) -> datetime:
    """When the invoice came into its present state, on the customer's clock."""
    times = raw["status_transitions"].values()
    return from_unix(max([raw["created"], *(time for time in times if time is not None)]))
