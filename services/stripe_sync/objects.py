"""Stripe's JSON in the product's words: pure functions, the only place that knows the object model.

The model is that of API version 2026-10-28.endive: periods stand on subscription items, an invoice
names its subscription under `parent`, a charge does not name its invoice.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.billing import BilledBy
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    StripeAccountChanged,
    StripeInvoiceChanged,
    StripeInvoiceLine,
    StripeSubscriptionChanged,
)
from libs.ids import parse_uuid
from libs.money import from_stripe
from libs.observability.personal_fields import without_personal_fields

Json = Mapping[str, Any]


class UnreadableObjectError(ValueError):
    """An object is not as this API version has it."""


def id_of(value: object) -> str | None:
    """The id in a reference: the id itself, or the expanded object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) else None


def metadata_of(raw: Json) -> Iterator[Json]:
    """The metadata of an object, then that of its subscription as the object carries it."""
    for holder in (raw, (raw.get("parent") or {}).get("subscription_details")):
        metadata = holder.get("metadata") if isinstance(holder, Mapping) else None
        if isinstance(metadata, Mapping):
            yield metadata


def named(raw: Json, name: str) -> UUID | None:
    """An id of ours in an object's metadata."""
    for metadata in metadata_of(raw):
        text = metadata.get(name)
        value = parse_uuid(text) if isinstance(text, str) else None
        if value is not None:
            return value
    return None


def customer_of(raw: Json) -> str | None:
    """The Stripe customer an object concerns; a customer concerns itself."""
    return id_of(raw) if raw.get("object") == "customer" else id_of(raw.get("customer"))


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


_SILENT_FIELDS = {
    "customer": ("next_invoice_sequence",),
    "invoice": ("webhooks_delivered_at",),
}
"""Fields that move without an event."""

_HEALTH_FIELDS = (
    "id",
    "object",
    "type",
    "country",
    "default_currency",
    "charges_enabled",
    "payouts_enabled",
    "details_submitted",
    "requirements",
)
"""All that is kept of a tenant's account: the rest is about the people behind it."""


def mirrored(kind: str, raw: Json) -> dict[str, Any]:
    """An object as the mirror keeps it: looking again without an event finds no difference.

    Nothing that tells of a person: whoever must be forgotten is not in the mirror.
    """
    if kind == "account":
        return {name: raw.get(name) for name in _HEALTH_FIELDS}
    kept = {name: value for name, value in raw.items() if name not in _SILENT_FIELDS.get(kind, ())}
    if kind == "charge":
        kept["balance_transaction"] = id_of(kept["balance_transaction"])
    plain: dict[str, Any] = without_personal_fields(kept)
    return plain


def account_fact(raw: Json, *, fetched_at: datetime) -> StripeAccountChanged:
    """What is said of the health of a tenant's account.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        requirements = raw.get("requirements") or {}
        due = [*(requirements.get("past_due") or ()), *(requirements.get("currently_due") or ())]
        return StripeAccountChanged(
            account=raw["id"],
            charges_enabled=raw["charges_enabled"],
            payouts_enabled=raw["payouts_enabled"],
            details_submitted=raw["details_submitted"],
            requirements_due=tuple(dict.fromkeys(due)),
            disabled_reason=requirements.get("disabled_reason"),
            fetched_at=fetched_at,
        )
    except (KeyError, TypeError) as error:
        raise UnreadableObjectError(f"account: {error!r}") from None


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
            stripe_customer_id=_required(id_of(raw["customer"])),
            customer_id=customer_id,
            plan_version_id=named(raw, "plan_version_id"),
            status=raw["status"],
            period_start=start,
            period_end=end,
            cancel_at_period_end=raw["cancel_at_period_end"],
            ended_at=_time(raw.get("ended_at")),
        )
    except (KeyError, TypeError, IndexError) as error:
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
            stripe_customer_id=_required(id_of(raw["customer"])),
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
            finalized_at=_time(times["finalized_at"]),
            paid_at=_time(times["paid_at"]),
        )
    except (KeyError, TypeError, IndexError) as error:
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


def payment_of(
    charge: Json,
    *,
    account: str,
    collected_by: BilledBy,
    customer_id: UUID,
    payment_id: UUID,
    invoice_id: str | None,
) -> dict[str, Any]:
    """A charge as the row of a payment.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = charge["currency"]
        status = _payment_status(charge)
        moved = charge["amount_captured"] if charge["captured"] else charge["amount"]
        created_at = from_unix(charge["created"])
        return {
            "payment_id": payment_id,
            "account": account,
            "collected_by": collected_by,
            "customer_id": customer_id,
            "stripe_customer_id": id_of(charge["customer"]),
            "stripe_charge_id": charge["id"],
            "stripe_payment_intent_id": id_of(charge["payment_intent"]),
            "stripe_invoice_id": invoice_id,
            "stripe_payment_link_id": None,
            "status": status,
            "amount_minor": from_stripe(moved, currency).amount_minor,
            "refunded_minor": from_stripe(charge["amount_refunded"], currency).amount_minor,
            "currency": currency.upper(),
            "failure_code": charge["failure_code"],
            "receipt_number": charge["receipt_number"],
            "receipt_url": charge["receipt_url"],
            "receipt_email": charge["receipt_email"],
            "created_at": created_at,
            "paid_at": created_at if status in PAID_STATUSES else None,
        }
    except (KeyError, TypeError) as error:
        raise UnreadableObjectError(f"charge: {error!r}") from None


PAID_STATUSES = frozenset({"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"})


def _payment_status(charge: Json) -> str:
    if charge["status"] == "failed":
        return "FAILED"
    if charge["status"] == "pending":
        return "PROCESSING"
    if not charge["captured"]:
        return "AUTHORIZED"
    if charge["amount_refunded"] == 0:
        return "COMPLETED"
    whole = charge["amount_refunded"] >= charge["amount_captured"]
    return "REFUNDED" if whole else "PARTIALLY_REFUNDED"


def transaction_fact(
    raw: Json, *, account: str, collected_by: BilledBy
) -> BalanceTransactionRecorded:
    """A balance transaction as a fact.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        return BalanceTransactionRecorded(
            account=account,
            collected_by=collected_by,
            stripe_balance_transaction_id=raw["id"],
            kind=raw["type"],
            source_id=id_of(raw["source"]),
            amount_minor=from_stripe(raw["amount"], currency).amount_minor,
            fee_minor=from_stripe(raw["fee"], currency).amount_minor,
            net_minor=from_stripe(raw["net"], currency).amount_minor,
            currency=currency.upper(),
            created_at=from_unix(raw["created"]),
            available_at=from_unix(raw["available_on"]),
        )
    except (KeyError, TypeError) as error:
        raise UnreadableObjectError(f"balance transaction: {error!r}") from None


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else from_unix(seconds)


def _required(value: str | None) -> str:
    if value is None:
        raise UnreadableObjectError("a reference is missing")
    return value
