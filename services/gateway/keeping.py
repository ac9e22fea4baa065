"""Keeping a verified event: whose it is, once, for good, and told to the others in the same commit."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from datetime import datetime
from functools import partial
from typing import Literal
from uuid import UUID

import msgspec
import structlog

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from libs.directory.local import LookupKind
from libs.ids import new_id
from libs.messaging.outbox import compose, emit, send
from services.gateway import erasure, store
from services.gateway.stripe_event import StripeEvent

log = structlog.get_logger()

PAYLOAD_BYTES_MAX = 240 * 1024
"""What travels in an event: escaped as JSON text it at most doubles, and an event has 512 KiB."""

THIN_PREFIX = "v1."
"""Thin events write it before the type that a snapshot of the same has; the others know that one."""

UNKNOWN_ACCOUNT = "unknown_account"
"""Why an event waits whose account nobody has connected yet; the others wait for staff."""

QUARANTINED = "quarantined:"
"""Before the account of ids that were taken by what cannot be believed."""

Assignment = Literal["customer", "metadata", "account", "unassigned"]
Outcome = Literal["stored", "duplicate", "quarantined"]
Found = Mapping[tuple[str, str], UUID]
"""Tenants in the local directory by (kind, value)."""


class Place(msgspec.Struct, frozen=True):
    """Whose event it is, and how that was found."""

    tenant_id: UUID
    assignment: Assignment


class Taken(msgspec.Struct, frozen=True):
    """A verified event, the account it is of, and why it is kept aside, if it is.

    Attributes:
        context: of the request that it came with: what it leaves in logs and traces belongs there.
    """

    event: StripeEvent
    account: str
    body: bytes
    headers: Mapping[str, str]
    received_at: datetime
    quarantine_reason: str | None
    context: Context = msgspec.field(default_factory=copy_context)


def look_ups(event: StripeEvent, mode: Mode) -> Iterator[tuple[LookupKind, str, Assignment]]:
    """What in the directory may say whose an event of the platform's own account is, surest first.

    The directory's Stripe ids come first, then our metadata where it names an existing tenant.
    """
    if event.about_account is not None:
        yield "account", f"{mode}:{event.about_account}", "account"
    for stripe_id in (*event.customer_ids, *event.subscription_ids):
        yield "stripe", f"{mode}:{stripe_id}", "customer"
    for named in event.named_tenant_ids:
        yield "id", str(named), "metadata"


def place_of(event: StripeEvent, mode: Mode, found: Found) -> Place:
    """The tenant an event of the platform's own account belongs to; else it is the platform's."""
    for kind, value, assignment in look_ups(event, mode):
        tenant_id = found.get((kind, value))
        if tenant_id is not None:
            return Place(tenant_id, assignment)
    return Place(PLATFORM_TENANT_ID, "unassigned" if event.names_somebody else "account")


async def keep(tx: Tx, arrivals: Sequence[tuple[Place, Taken]]) -> list[Outcome]:
    """Keep events for tenants in scope, and publish those that are not kept aside."""
    entered = [_arrival(place, taken) for place, taken in arrivals]
    fresh = await store.take_ids(tx, entered)
    kept = {
        each.event.id: msgspec.structs.replace(
            each.event, payload=erasure.redacted(each.event.payload)
        )
        if fresh[each.event.id]
        else each.event
        for each in entered
        if each.event.id in fresh
    }
    if kept:
        await store.insert(
            tx, [(each.tenant_id, kept[each.event.id]) for each in entered if each.event.id in kept]
        )
    outcomes: list[Outcome] = []
    for each, (_, taken) in zip(entered, arrivals, strict=True):
        event = kept.get(each.event.id)
        # In the context of its own request, so that the trace goes on from there.
        outcomes.append(taken.context.run(_tell, tx, each.tenant_id, taken, event))
    return outcomes


def _arrival(place: Place, taken: Taken) -> store.Arrival:
    event = taken.event
    kept = store.KeptEvent(
        id=new_id(),
        account=taken.account,
        stripe_event_id=event.id,
        event_type=event.type,
        api_version=event.api_version,
        event_created_at=event.created_at,
        object_type=event.object_type,
        object_id=event.object_id,
        assignment=place.assignment,
        quarantine_reason=taken.quarantine_reason,
        payload=taken.body,
        headers=dict(taken.headers),
        received_at=taken.received_at,
    )
    digest = hashlib.sha256(taken.body).digest()
    return store.Arrival(place.tenant_id, kept, _account_of_id(taken), digest, event.customer_ids)


def _account_of_id(taken: Taken) -> str:
    """Under which account the event's id is taken.

    What cannot be believed takes no id from what can: signed with the right secret, or found in
    Stripe's list, the same event is let in.
    """
    if taken.quarantine_reason in (None, UNKNOWN_ACCOUNT):
        return taken.account
    return f"{QUARANTINED}{taken.account}"


def _tell(tx: Tx, tenant_id: UUID, taken: Taken, kept: store.KeptEvent | None) -> Outcome:
    """Tell the others of an event that was kept, and staff of one that was kept aside."""
    if kept is None:
        return "duplicate"
    if kept.quarantine_reason is not None:
        kind = f"stripe_event_quarantined_{kept.quarantine_reason}"
        raise_alarm(tx, kind, taken.event, tenant_id)
        tx.after_commit.append(partial(taken.context.run, _say_quarantined, taken))
        return "quarantined"
    publish(tx, kept, tenant_id=tenant_id)
    if kept.assignment == "unassigned":
        raise_alarm(tx, "stripe_event_unassigned", taken.event, tenant_id)
        tx.after_commit.append(partial(taken.context.run, _say_unassigned, taken))
    return "stored"


def publish(
    tx: Tx,
    kept: store.KeptEvent,
    *,
    replay_id: str | None = None,
    dry_run: bool = False,
    tenant_id: UUID | None = None,
) -> None:
    """Tell the others of a kept event, for the first time or again."""
    travels = len(kept.payload) <= PAYLOAD_BYTES_MAX
    letter = compose(
        tx,
        StripeEventReceived,
        {
            "account": kept.account,
            "stripe_event_id": kept.stripe_event_id,
            "event_type": kept.event_type.removeprefix(THIN_PREFIX),
            "api_version": kept.api_version,
            "created_at": kept.event_created_at,
            "object_type": kept.object_type,
            "object_id": kept.object_id,
            "payload": kept.payload.decode() if travels else None,
            "replay_id": replay_id,
            "dry_run": dry_run,
        },
        effective_at=kept.event_created_at,
        tenant_id=tenant_id or tx.tenant_id,
        cause=tx.cause,
    )
    send(tx, letter)


def raise_alarm(tx: Tx, kind: str, event: StripeEvent, tenant_id: UUID | None = None) -> None:
    """Record a security event of something Stripe sent."""
    emit(
        tx,
        SecurityEventRaised(
            kind=kind,
            severity="warning",
            actor="stripe",
            service=tx.service,
            method="POST",
            path=f"webhook/{event.account or PLATFORM_ACCOUNT}/{event.id}",
        ),
        tenant_id=tenant_id,
    )


def _say_unassigned(taken: Taken) -> None:
    log.warning("webhook_unassigned", stripe_event_id=taken.event.id, event_type=taken.event.type)


def _say_quarantined(taken: Taken) -> None:
    """Say it in the log.

    Stripe tells of a new connection before we know of it ourselves, so an unknown account is no
    error yet: it is one when it stays unknown (`quarantine.tell`).
    """
    say = log.warning if taken.quarantine_reason == UNKNOWN_ACCOUNT else log.error
    say(
        "webhook_quarantined",
        reason=taken.quarantine_reason,
        account=taken.account,
        stripe_event_id=taken.event.id,
        event_type=taken.event.type,
    )
