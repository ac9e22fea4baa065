"""Stripe's JSON in the product's words: what all objects share, accounts, and what is kept of them.

Pure functions; with `objects_invoices`, `objects_payments` and `objects_money` the only place that
knows the object model, which is that of API version 2026-10-28.endive.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.envelope import Fact
from libs.contracts.stripe_accounts import StripeAccountChanged
from libs.ids import parse_uuid
from libs.observability.personal_fields import without_personal_fields

Json = Mapping[str, Any]


class UnreadableObjectError(ValueError):
    """An object is not as this API version has it."""


def id_of(value: object) -> str | None:
    """The id in a reference: the id itself, or the expanded object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) else None


def required(value: str | None) -> str:
    """A reference that must be there.

    Raises:
        UnreadableObjectError: it is not.
    """
    if value is None:
        raise UnreadableObjectError("a reference is missing")
    return value


def time_of(seconds: int | None) -> datetime | None:
    """A time of Stripe's, where it has one."""
    return None if seconds is None else from_unix(seconds)


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


_SILENT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "customer": ("next_invoice_sequence",),
    "invoice": ("webhooks_delivered_at",),
}
"""Fields that move without an event."""

_SECRET_FIELDS: Mapping[str, tuple[str, ...]] = {
    "dispute": ("evidence",),
    "invoice": ("confirmation_secret",),
    "charge": ("description",),
    "payment_intent": ("client_secret", "description", "last_payment_error"),
    "refund": ("next_action",),
}
"""Fields that let a payer's browser act, free words, and what a dispute or a decline tells of people."""

_EXPANDED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "charge": ("balance_transaction",),
    "payment_intent": ("latest_charge",),
}
"""References that are expanded to get at more than their id."""

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

    Nothing that tells of a person, for whoever must be forgotten is not in the mirror; and no secret.
    """
    if kind == "account":
        return {name: raw.get(name) for name in _HEALTH_FIELDS}
    left_out = (*_SILENT_FIELDS.get(kind, ()), *_SECRET_FIELDS.get(kind, ()))
    kept = {name: value for name, value in raw.items() if name not in left_out}
    for name in _EXPANDED_FIELDS.get(kind, ()):
        kept[name] = id_of(kept.get(name))
    if kept.get("next_action"):
        kept["next_action"] = {"type": kept["next_action"].get("type")}
    plain: dict[str, Any] = without_personal_fields(kept)
    return plain


UNTOLD_FIELDS = {"version", "fetched_at", "lost_before_minor"}
"""Of a fact: what differs although nothing changed."""


def as_said_now(fact: Fact, said: Json | None) -> dict[str, Any] | None:
    """What was said of an object, with fields that facts of this type have got since.

    So nothing is said again only because a newer release has more to say.
    """
    if said is None:
        return None
    fields = type(fact).model_fields.items()
    added = {name: each.default for name, each in fields if not each.is_required()}
    return {name: value for name, value in {**added, **said}.items() if name not in UNTOLD_FIELDS}


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
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"account: {error!r}") from None
