"""Archived webhooks without the people in them.

Ids, types, times and amounts stay, so that an event can still be found and sent again.
"""

import json

from libs.contracts.billing import CustomerErased
from libs.db.pool import Tx
from libs.observability.personal_fields import without_personal_fields
from services.gateway import store

PAGE = 200


async def forget(tx: Tx, fact: CustomerErased) -> None:
    """Blank what tells of a person in every archived event that names the customer at Stripe."""
    for stripe_customer_id in fact.stripe_customer_ids:
        after = None
        while rows := await store.read_naming(tx, stripe_customer_id, after, PAGE):
            for row in rows:
                await store.replace_payload(tx, row["id"], redacted(bytes(row["payload"])))
            after = rows[-1]["id"]


def redacted(payload: bytes) -> bytes:
    """The event's body without personal fields; a body that is no JSON is kept not at all."""
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return b"{}"
    return json.dumps(without_personal_fields(event), ensure_ascii=False).encode()
