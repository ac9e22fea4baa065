"""What a webhook makes dirty. Nothing of the event's snapshot is believed but ids."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from libs.clock import from_unix
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from libs.messaging.apply import Delivery
from services.stripe_sync import store_marks
from services.stripe_sync.objects import id_of
from services.stripe_sync.store_marks import Mark

BALANCE = ("balance", "balance")
"""Not an object of Stripe's: list the balance transactions since the last time."""

MIRRORED = frozenset(
    {
        *("customer", "product", "price", "subscription", "invoice"),
        *("payment_intent", "refund", "dispute", "payout"),
    }
)
"""Types that an event's object is fetched of; charges are fetched with their payment intent."""

MOVES_MONEY = (
    "application_fee.",
    "charge.dispute.",
    "charge.refund",
    "payout.",
    "refund.",
    "topup.",
    "transfer.",
)
"""Events after which the balance may have changed by more than a charge."""

CHANGES_HEALTH = ("account.", "capability.", "person.", "v2.core.account")
"""Events after which an account may have other rights or other things due."""

THIN_ACCOUNT = "v2.core.account"
"""What thin events are about that tell of an account; they may happen in the platform's own."""

FAILED_ATTEMPT = "charge.failed"

CHARGE_OF_INTENT = ("charge", "payment_intent")
"""A charge is made soon after its intent."""

UNIX_SECONDS_MAX = 2**33

_REFERENCES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "checkout.session": (
        ("customer", "customer"),
        ("subscription", "subscription"),
        ("invoice", "invoice"),
        ("payment_intent", "payment_intent"),
    ),
    "invoice_payment": (("invoice", "invoice"),),
}
"""Fields of an event's object that lead to others to fetch."""

_HAS_PAYMENT = frozenset({"charge", "dispute", "refund"})
"""Types whose payment changes with them: an intent, or a charge that has none."""

ID = re.compile(r"""(?!\.{1,2}$)[!"$&-.0->@-~]{1,255}""")
"""Also ids that users chose at Stripe, such as `basic.monthly`; what no path could carry is not
fetched."""


async def take_events(tx: Tx, deliveries: Iterable[Delivery]) -> None:
    """Mark what events are about; their tenants are in scope."""
    await store_marks.mark_each(
        tx, [mark for delivery in deliveries for mark in _marks_of(delivery)]
    )


def dirty_objects(event: StripeEventReceived) -> list[tuple[str, str]]:
    """(type, id) of everything to fetch because of an event."""
    return _dirty(event, _subject(event.payload))


def _marks_of(delivery: Delivery) -> Iterator[Mark]:
    fact: StripeEventReceived = delivery.event.data
    subject = _subject(fact.payload)
    born_at = made_at(subject)
    for kind, object_id in _dirty(fact, subject):
        if kind == "account" and delivery.event.tenant_id == PLATFORM_TENANT_ID:
            continue  # Nobody has connected it.
        tells = object_id == fact.object_id or (fact.object_type, kind) == CHARGE_OF_INTENT
        yield Mark(
            delivery.event.tenant_id,
            # An event of the platform's own account may tell of any that is connected to it; a
            # tenant's own webhook tells of its own account alone, whatever it names.
            object_id if kind == "account" else fact.account,
            kind,
            object_id,
            made_at=born_at if tells else None,
            told_at=fact.created_at,
            trace=delivery.cause.trace,
        )


def _dirty(event: StripeEventReceived, subject: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    kind = event.object_type or ""
    if kind in MIRRORED and event.object_id:
        found.append((kind, event.object_id))
    found += _referred(subject, _REFERENCES.get(kind, ()))
    if kind in _HAS_PAYMENT:
        found += _payment(event, subject)
    found = [pair for pair in found if ID.fullmatch(pair[1])]
    if event.event_type.startswith(MOVES_MONEY):
        found.append(BALANCE)
    account = event.account
    if account == PLATFORM_ACCOUNT and event.object_type == THIN_ACCOUNT:
        account = event.object_id or account
    changes_health = event.event_type.startswith(CHANGES_HEALTH)
    if account and account != PLATFORM_ACCOUNT and changes_health and ID.fullmatch(account):
        found.append(("account", account))
    return list(dict.fromkeys(found))


def _referred(subject: Mapping[str, Any], fields: Any) -> Iterator[tuple[str, str]]:
    for field, kind in fields:
        object_id = id_of(subject.get(field))
        if object_id is not None:
            yield kind, object_id


def _payment(event: StripeEventReceived, subject: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The payment that a charge, dispute or refund belongs to.

    A charge that failed is fetched itself: by then its intent may have gone on to another one.
    """
    intent_id, charge_id = id_of(subject.get("payment_intent")), id_of(subject.get("charge"))
    if event.object_type == "charge":
        charge_id = event.object_id
    if intent_id is not None:
        yield "payment_intent", intent_id
    if charge_id is not None and (intent_id is None or event.event_type == FAILED_ATTEMPT):
        yield "charge", charge_id


def made_at(subject: Mapping[str, Any]) -> datetime | None:
    """When an object was made, where it says so; it is only looked for there."""
    created = subject.get("created")
    return from_unix(created) if type(created) is int and 0 < created < UNIX_SECONDS_MAX else None


def _subject(payload: str | None) -> Mapping[str, Any]:
    """The event's object; empty where it did not travel or is odd: then the object says nothing."""
    try:
        subject = json.loads(payload or "{}").get("data", {}).get("object", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return subject if isinstance(subject, Mapping) else {}
