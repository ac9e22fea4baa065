"""Archived webhooks without the people in them.

Ids, types, times and amounts stay, so that an event can still be found and sent again.
"""

import json
from dataclasses import replace

from libs.contracts.billing import CustomerErased
from libs.db.pool import Tx
from libs.observability.personal_fields import without_personal_fields
from services.gateway import store
from services.gateway.stripe_event import NotAnEventError, finite_number, parse

PAGE = 200


async def forget(tx: Tx, fact: CustomerErased) -> None:
    """Blank what tells of a person in every archived event that names the customer at Stripe.

    What Stripe sends of the customer from now on is blanked when it is kept.
    """
    await store.remember_erased(tx, fact.stripe_customer_ids)
    for stripe_customer_id in fact.stripe_customer_ids:
        after = None
        while rows := await store.read_naming(tx, stripe_customer_id, after, PAGE):
            for row in rows:
                await store.replace_payload(tx, row["id"], redacted(bytes(row["payload"])))
            after = (rows[-1]["received_at"], rows[-1]["id"])


async def after_moving(tx: Tx, kept: store.KeptEvent) -> store.KeptEvent:
    """The event, blanked if the tenant it has come to has erased a person in it."""
    try:
        named = parse(kept.payload).customer_ids
    except NotAnEventError:
        return kept
    if not await store.any_erased(tx, named):
        return kept
    payload = redacted(kept.payload)
    await store.replace_payload(tx, kept.id, payload)
    return replace(kept, payload=payload)


def redacted(payload: bytes) -> bytes:
    """The event's body without personal fields; a body that is no JSON is kept not at all."""
    try:
        event = json.loads(payload, parse_float=finite_number)
    except (ValueError, RecursionError):
        return b"{}"
    # Half a surrogate pair is text to JSON, and no UTF-8.
    text = json.dumps(without_personal_fields(event), ensure_ascii=False)
    return text.encode("utf-8", "replace")
