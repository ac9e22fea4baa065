"""Taking a webhook in: verify, read, find its tenant, keep it, tell the others."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.directory.local import Directory
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.gateway import signature, store
from services.gateway.stripe_event import StripeEvent, parse

log = structlog.get_logger()

PAYLOAD_BYTES_MAX = 240 * 1024
"""What travels in an event: escaped as JSON text it at most doubles, and an event has 512 KiB."""

Assignment = Literal["customer", "metadata", "account", "unassigned"]
Outcome = Literal["stored", "duplicate", "quarantined"]


class EndpointClosedError(Exception):
    """No secret is configured, so nothing can be verified."""


class SignatureRefusedError(Exception):
    """The signature is missing, wrong or outside the tolerance."""


@dataclass(frozen=True)
class EndpointSecret:
    """A signing secret, and what may be signed with it: our own events or connected accounts'."""

    value: bytes
    scope: Literal["platform", "connect"]
    mode: Mode

    def __repr__(self) -> str:
        """Say what it is for, never the secret."""
        return f"EndpointSecret(scope={self.scope!r}, mode={self.mode!r})"


@dataclass(frozen=True)
class Webhook:
    """A request as it came: raw bytes and the headers worth keeping."""

    body: bytes
    signature_header: bytes | None
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _Place:
    """Whose event it is, and how that was found."""

    tenant_id: UUID
    assignment: Assignment


async def take(
    webhook: Webhook,
    secrets: Sequence[EndpointSecret],
    database: Database,
    directory: Directory,
) -> Outcome:
    """Verify and keep one webhook; when this returns, the event is durable.

    Raises:
        EndpointClosedError: no secret is configured.
        SignatureRefusedError: not signed by Stripe, or too long ago, or in the future.
        NotAnEventError: signed, but not an event.
        OSError and its kin: Postgres is away; nothing was kept and Stripe must try again.
    """
    verdict = signature.verify(
        webhook.signature_header,
        webhook.body,
        [secret.value for secret in secrets],
        int(utc_now().timestamp()),
    )
    if not secrets:
        raise EndpointClosedError
    if verdict.outcome != "valid":
        log.warning("webhook_refused", reason=verdict.outcome, bytes=len(webhook.body))
        raise SignatureRefusedError(verdict.outcome)
    event = parse(webhook.body)
    signers = [secrets[place] for place in verdict.matched]
    reason = _quarantine_reason(event, signers)
    mode = signers[0].mode if reason == "livemode_mismatch" else _mode_of(event)
    if reason is not None:
        return await _quarantine(webhook, event, mode, reason, database)
    place = await _place(event, mode, directory)
    async with database.tenant(place.tenant_id, mode) as tx:
        kept = await _keep(tx, webhook, event, place.assignment, None)
        if kept is None:
            return "duplicate"
        publish(tx, kept)
        if place.assignment == "unassigned":
            _raise_alarm(tx, "stripe_event_unassigned", event)
    return "stored"


def publish(tx: Tx, kept: store.KeptEvent, replay_id: str | None = None) -> None:
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
        ),
        effective_at=kept.event_created_at,
    )


def _mode_of(event: StripeEvent) -> Mode:
    return "live" if event.livemode else "test"


def _quarantine_reason(event: StripeEvent, signers: Sequence[EndpointSecret]) -> str | None:
    """Why a signed event is kept aside: its account or mode is not what the secret stands for."""
    if _mode_of(event) not in {signer.mode for signer in signers}:
        return "livemode_mismatch"
    if event.account is None:
        own = any(signer.scope == "platform" for signer in signers)
        return None if own else "account_missing"
    return "unknown_account"


async def _quarantine(
    webhook: Webhook, event: StripeEvent, mode: Mode, reason: str, database: Database
) -> Outcome:
    """Keep an event that belongs to nobody we know; it is not published."""
    async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
        if await _keep(tx, webhook, event, "unassigned", reason) is None:
            return "duplicate"
        _raise_alarm(tx, f"stripe_event_quarantined_{reason}", event)
    log.error(
        "webhook_quarantined",
        reason=reason,
        account=event.account,
        stripe_event_id=event.id,
        event_type=event.type,
    )
    return "quarantined"


async def _place(event: StripeEvent, mode: Mode, directory: Directory) -> _Place:
    """The tenant an event of the platform's own account belongs to.

    The directory's Stripe ids come first, then our metadata where it names an existing tenant, then
    the platform itself.
    """
    for stripe_id in (*event.customer_ids, *event.subscription_ids):
        tenant = await directory.find("stripe", f"{mode}:{stripe_id}")
        if tenant is not None:
            return _Place(tenant.id, "customer")
    for tenant_id in event.named_tenant_ids:
        tenant = await directory.by_id(tenant_id)
        if tenant is not None:
            return _Place(tenant.id, "metadata")
    if event.customer_ids or event.subscription_ids or event.named_tenant_ids:
        log.warning("webhook_unassigned", stripe_event_id=event.id, event_type=event.type)
        return _Place(PLATFORM_TENANT_ID, "unassigned")
    return _Place(PLATFORM_TENANT_ID, "account")


async def _keep(
    tx: Tx,
    webhook: Webhook,
    event: StripeEvent,
    assignment: Assignment,
    quarantine_reason: str | None,
) -> store.KeptEvent | None:
    """Store the event; None when its id was taken before."""
    kept = store.KeptEvent(
        id=new_id(),
        account=event.account or PLATFORM_ACCOUNT,
        stripe_event_id=event.id,
        event_type=event.type,
        api_version=event.api_version,
        event_created_at=event.created_at,
        object_type=event.object_type,
        object_id=event.object_id,
        assignment=assignment,
        quarantine_reason=quarantine_reason,
        payload=webhook.body,
        headers=dict(webhook.headers),
        received_at=utc_now(),
    )
    taken = await store.take_id(tx, kept, hashlib.sha256(webhook.body).digest())
    if not taken:
        return None
    await store.insert(tx, kept)
    return kept


def _raise_alarm(tx: Tx, kind: str, event: StripeEvent) -> None:
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
