"""Archived webhooks without the people in them.

Ids, types, times and amounts stay, so that an event can still be found and sent again. An archive may
be of any size, so a job goes through it page by page: what a page forgets and how far it has come
stand in one commit.
"""

import json
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import structlog

from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import Envelope
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode
from libs.observability.personal_fields import without_personal_fields
from services.gateway import store, store_erasure
from services.gateway.stripe_event import NotAnEventError, finite_number, parse

log = structlog.get_logger()

PAGE_EVENTS = 500
PAGES_MAX = 20
AT_ONCE_MAX = 20
SETTLED_AFTER = timedelta(seconds=30)
"""An event that was being kept when the customer was erased stands in the archive by then."""


async def forget(tx: Tx, event: Envelope[CustomerErased]) -> None:
    """Have what tells of a person blanked in every archived event that names the customer at Stripe.

    What Stripe sends of the customer from now on is blanked when it is kept.
    """
    await store_erasure.remember_erased(tx, event.data.stripe_customer_ids, event.occurred_at)


async def run_once(database: Database, now: datetime, *, pages_max: int = PAGES_MAX) -> None:
    """Some pages of the archive for every customer that is being forgotten, in turn."""
    async with database.maintenance() as tx:
        left = await store_erasure.under_way(tx, now - SETTLED_AFTER, AT_ONCE_MAX)
    for _ in range(pages_max):
        left = [each for each in left if await _forget_page(database, *each)]


async def _forget_page(
    database: Database, tenant_id: UUID, mode: Mode, stripe_customer_id: str
) -> bool:
    """Forget a customer in the next page of its tenant's archive; whether there may be more now."""
    async with database.tenant(tenant_id, mode) as tx:
        erasure = await store_erasure.lock(tx, stripe_customer_id)
        if erasure is None:
            return False
        rows = await store_erasure.read_on(tx, erasure, PAGE_EVENTS)
        for row in rows:
            if row["names_it"]:
                # One body at a time: together those of a page may be larger than the memory.
                payload = await store_erasure.payload_of(tx, row["id"], row["received_at"])
                if payload is not None:
                    await store_erasure.replace_payload(tx, row["id"], redacted(payload))
        ended = len(rows) < PAGE_EVENTS
        await store_erasure.move_on(tx, erasure, rows[-1] if rows else None, ended=ended)
    if ended:
        log.info("customer_forgotten_in_archive", tenant_id=str(tenant_id), mode=mode)
    return not ended


async def after_moving(tx: Tx, kept: store.KeptEvent) -> store.KeptEvent:
    """The event, blanked if the tenant it has come to has erased a person in it."""
    try:
        named = parse(kept.payload).customer_ids
    except NotAnEventError:
        return kept
    if not await store_erasure.any_erased(tx, named):
        return kept
    payload = redacted(kept.payload)
    await store_erasure.replace_payload(tx, kept.id, payload)
    return msgspec.structs.replace(kept, payload=payload)


def redacted(payload: bytes) -> bytes:
    """The event's body without personal fields; a body that is no JSON is kept not at all."""
    try:
        event = json.loads(payload, parse_float=finite_number)
    except (ValueError, RecursionError):
        return b"{}"
    # Half a surrogate pair is text to JSON, and no UTF-8.
    text = json.dumps(without_personal_fields(event), ensure_ascii=False)
    return text.encode("utf-8", "replace")
