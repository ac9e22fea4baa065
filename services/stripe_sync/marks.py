"""What a webhook makes dirty. Nothing of the event's snapshot is believed but ids."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from libs.contracts.envelope import Envelope
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.db.pool import Tx
from services.stripe_sync import store_marks
from services.stripe_sync.objects import id_of

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

CHANGES_HEALTH = ("account.", "capability.", "person.")
"""Events after which an account may have other rights or other things due."""

FAILED_ATTEMPT = "charge.failed"

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


async def take_event(tx: Tx, event: Envelope[StripeEventReceived]) -> None:
    """Mark what the event is about."""
    await store_marks.mark(tx, event.data.account, dirty_objects(event.data))


def dirty_objects(event: StripeEventReceived) -> list[tuple[str, str]]:
    """(type, id) of everything to fetch because of an event."""
    found: list[tuple[str, str]] = []
    kind, subject = event.object_type or "", _subject(event.payload)
    if kind in MIRRORED and event.object_id:
        found.append((kind, event.object_id))
    found += _referred(subject, _REFERENCES.get(kind, ()))
    if kind in _HAS_PAYMENT:
        found += _payment(event, subject)
    found = [pair for pair in found if ID.fullmatch(pair[1])]
    if event.event_type.startswith(MOVES_MONEY):
        found.append(BALANCE)
    if event.account != PLATFORM_ACCOUNT and event.event_type.startswith(CHANGES_HEALTH):
        found.append(("account", event.account))
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


def _subject(payload: str | None) -> Mapping[str, Any]:
    """The event's object; empty where it did not travel or is odd: then the object says nothing."""
    try:
        subject = json.loads(payload or "{}").get("data", {}).get("object", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return subject if isinstance(subject, Mapping) else {}
