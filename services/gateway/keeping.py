"""Keeping a verified event: whose it is, once, for good, and told to the others in the same commit."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Literal
from uuid import UUID

import structlog

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from libs.directory.local import LookupKind
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.gateway import erasure, store
from services.gateway.stripe_event import StripeEvent

log = structlog.get_logger()

PAYLOAD_BYTES_MAX = 240 * 1024
"""What travels in an event: escaped as JSON text it at most doubles, and an event has 512 KiB."""

UNKNOWN_ACCOUNT = "unknown_account"
"""Why an event waits whose account nobody has connected yet; the others wait for staff."""

Assignment = Literal["customer", "metadata", "account", "unassigned"]
Outcome = Literal["stored", "duplicate", "quarantined"]
FindTenant = Callable[[LookupKind, str], Awaitable[UUID | None]]
"""Looks a tenant up in the local directory."""


@dataclass(frozen=True)
class Place:
    """Whose event it is, and how that was found."""

    tenant_id: UUID
    assignment: Assignment


@dataclass(frozen=True)
class Taken:
    """A verified event, the account it is of, and why it is kept aside, if it is."""

    event: StripeEvent
    account: str
    body: bytes
    headers: Mapping[str, str]
    received_at: datetime
    quarantine_reason: str | None


async def place_of(event: StripeEvent, mode: Mode, find: FindTenant) -> Place:
    """The tenant an event of the platform's own account belongs to.

    The directory's Stripe ids come first, then our metadata where it names an existing tenant, then
    the platform itself.
    """
    if event.about_account is not None:
        tenant_id = await find("account", f"{mode}:{event.about_account}")
        if tenant_id is not None:
            return Place(tenant_id, "account")
    for stripe_id in (*event.customer_ids, *event.subscription_ids):
        tenant_id = await find("stripe", f"{mode}:{stripe_id}")
        if tenant_id is not None:
            return Place(tenant_id, "customer")
    for named in event.named_tenant_ids:
        tenant_id = await find("id", str(named))
        if tenant_id is not None:
            return Place(tenant_id, "metadata")
    if event.names_somebody:
        log.warning("webhook_unassigned", stripe_event_id=event.id, event_type=event.type)
        return Place(PLATFORM_TENANT_ID, "unassigned")
    return Place(PLATFORM_TENANT_ID, "account")


async def keep(tx: Tx, taken: Taken, assignment: Assignment) -> Outcome:
    """Keep an event for the tenant in scope, and publish it unless it is kept aside."""
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
        assignment=assignment,
        quarantine_reason=taken.quarantine_reason,
        payload=taken.body,
        headers=dict(taken.headers),
        received_at=taken.received_at,
    )
    digest = hashlib.sha256(taken.body).digest()
    took = await store.take_id(tx, kept, digest, event.customer_ids)
    if not took.fresh:
        return "duplicate"
    if took.names_erased:
        kept = replace(kept, payload=erasure.redacted(kept.payload))
    await store.insert(tx, kept)
    if taken.quarantine_reason is not None:
        raise_alarm(tx, f"stripe_event_quarantined_{taken.quarantine_reason}", event)
        tx.after_commit.append(partial(_tell_quarantined, taken))
        return "quarantined"
    publish(tx, kept)
    if assignment == "unassigned":
        raise_alarm(tx, "stripe_event_unassigned", event)
    return "stored"


def publish(
    tx: Tx, kept: store.KeptEvent, *, replay_id: str | None = None, dry_run: bool = False
) -> None:
    """Tell the others of a kept event, for the first time or again."""
    travels = len(kept.payload) <= PAYLOAD_BYTES_MAX
    emit(
        tx,
        StripeEventReceived(
            account=kept.account,
            stripe_event_id=kept.stripe_event_id,
            event_type=kept.event_type,
            api_version=kept.api_version,
            created_at=kept.event_created_at,
            object_type=kept.object_type,
            object_id=kept.object_id,
            payload=kept.payload.decode() if travels else None,
            replay_id=replay_id,
            dry_run=dry_run,
        ),
        effective_at=kept.event_created_at,
    )


def raise_alarm(tx: Tx, kind: str, event: StripeEvent) -> None:
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
    )


def _tell_quarantined(taken: Taken) -> None:
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
