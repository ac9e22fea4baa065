"""Webhooks that never came: found in Stripe's list of events, and sent in by the gateway's door.

Stripe lists events for 30 days. The list is read with an overlap, because events do not appear in it
in the order of their times; an event younger than a minute may still be on its way.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import StripeEventFound
from libs.db.pool import Tx
from libs.messaging.outbox import EventTooLargeError, emit
from libs.observability.metrics import STRIPE_EVENTS_HEALED_TOTAL
from services.stripe_sync import resync, store_events, store_marks, store_walks
from services.stripe_sync.client import Json
from services.stripe_sync.marks import MIRRORED
from services.stripe_sync.objects import id_of
from services.stripe_sync.store_walks import Walk
from services.stripe_sync.walks import Visit

log = structlog.get_logger()

OVERLAP = timedelta(minutes=15)
CURSOR_AGE_MAX = timedelta(days=25)
"""Stripe keeps events for 30 days; with an older cursor some may be gone already."""
LISTED_FOR = timedelta(days=29)
KEPT_FOR = timedelta(days=35)

EVENTS_LOST = "v2.core.health.event_generation_failure"
"""Told by Stripe, in a thin event, when it could not make some events
(https://docs.stripe.com/webhooks/handle-irrecoverable-events)."""

UNDELIVERED_FOR = timedelta(days=3)
"""How long Stripe tries to deliver."""
COUNTED_FROM, COUNTED_TO = timedelta(minutes=70), timedelta(minutes=10)
"""How old an undelivered event is that counts: a restart of ours is over sooner than that."""

UNDELIVERED_TYPES = (
    "account.updated",
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.failed",
    "charge.refunded",
    "charge.succeeded",
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.updated",
    "invoice.created",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice_payment.paid",
    "payment_intent.payment_failed",
    "payment_intent.succeeded",
    "payout.failed",
    "payout.paid",
    "refund.updated",
)
"""Stripe takes 20 types at most; these move money or rights."""


async def note_taken(tx: Tx, facts: Sequence[StripeEventReceived]) -> None:
    """Remember events that came, so that they are not found again.

    Where Stripe tells that it failed to make events, no list has them: all lists of the account are
    compared with the mirror as soon as can be.
    """
    new = await store_events.note_taken(
        tx, [(fact.account, fact.stripe_event_id, fact.created_at) for fact in facts]
    )
    lost = {
        fact.account
        for fact in facts
        if fact.event_type.startswith(EVENTS_LOST) and (fact.account, fact.stripe_event_id) in new
    }
    for account in sorted(lost):
        await store_walks.hasten(tx, account)


async def begin(visit: Visit) -> None:
    """Before the list is read: have the whole account listed where events may be gone already."""
    walk = visit.walk
    if walk.done_to is None:
        async with visit.database.maintenance() as tx:
            old = walk.started_at - OVERLAP
            is_old = await store_walks.has_mirror_before(tx, walk.account, walk.mode, old)
    else:
        is_old = walk.done_to < walk.started_at - CURSOR_AGE_MAX
    if is_old:
        log.warning("stripe_events_missed", account=walk.account, done_to=str(walk.done_to))
        async with visit.database.tenant(visit.identity.tenant_id, walk.mode) as tx:
            await resync.start(tx, walk.account, requested_by="gap_fill", now=utc_now())


def since(walk: Walk) -> datetime:
    """From when on events are listed."""
    return max((walk.done_to or walk.started_at) - OVERLAP, walk.started_at - LISTED_FOR)


async def take_page(visit: Visit, page: list[Json]) -> int:
    """Send in what never came; how many events that were."""
    settled_at = utc_now() - timedelta(seconds=visit.settings.found_after_seconds)
    events = {event["id"]: event for event in page if from_unix(event["created"]) <= settled_at}
    account, mode = visit.walk.account, visit.walk.mode
    async with visit.database.transaction() as tx:
        missing = await store_events.not_taken(tx, account, mode, list(events))
    if not missing:
        return 0
    found = 0
    async with visit.database.tenant(visit.identity.tenant_id, mode) as tx:
        for event_id in reversed(events):
            if event_id in missing:
                found += await _tell(tx, account, events[event_id])
    if found:
        STRIPE_EVENTS_HEALED_TOTAL.inc(found)
        log.warning("stripe_events_found", account=account, mode=mode, found=found)
    return found


def undelivered_query(walk: Walk) -> Json:
    """What Stripe tries to deliver, or has given up lately."""
    return {
        "delivery_success": False,
        "types": list(UNDELIVERED_TYPES),
        "created": {"gte": int((walk.started_at - UNDELIVERED_FOR).timestamp())},
    }


async def take_undelivered(visit: Visit, page: list[Json]) -> int:
    """Send in what never came; how many of the events say that our door was shut of late."""
    await take_page(visit, page)
    started_at = visit.walk.started_at
    times = [from_unix(event["created"]) for event in page]
    return sum(started_at - COUNTED_FROM <= at <= started_at - COUNTED_TO for at in times)


async def _tell(tx: Tx, account: str, event: Json) -> bool:
    created_at = from_unix(event["created"])
    if not await store_events.note_found(tx, account, event["id"], created_at):
        return False
    fact = StripeEventFound(
        account=account,
        stripe_event_id=event["id"],
        event_type=event["type"],
        created_at=created_at,
        payload=json.dumps(event, separators=(",", ":"), ensure_ascii=False),
    )
    try:
        emit(tx, fact, effective_at=utc_now())
    except EventTooLargeError:
        # Too large to travel: what it is about is fetched without it.
        subject = event["data"]["object"]
        kind, object_id = subject.get("object"), id_of(subject)
        log.error("stripe_event_too_large", account=account, event=event["id"])  # noqa: TRY400
        if kind in MIRRORED and object_id is not None:
            await store_marks.mark(tx, account, [(kind, object_id)])
    return True
