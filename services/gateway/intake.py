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
from libs.directory.local import Directory, Tenant
from libs.ids import new_id
from libs.messaging.key_use import KEY_USES
from libs.messaging.outbox import emit
from services.gateway import signature, store
from services.gateway.endpoints import EndpointSecret, TenantEndpoint
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


class OtherAccountError(Exception):
    """A tenant's secret signed an event that names an account which is not the tenant's."""


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


@dataclass(frozen=True)
class _Taken:
    """A verified webhook, the account it is of, and why it is kept aside, if it is."""

    webhook: Webhook
    event: StripeEvent
    account: str
    quarantine_reason: str | None


async def take(
    webhook: Webhook,
    secrets: Sequence[EndpointSecret],
    database: Database,
    directory: Directory,
) -> Outcome:
    """Verify and keep one webhook of the platform's URL; when this returns, the event is durable.

    Raises:
        EndpointClosedError: no secret is configured.
        SignatureRefusedError: not signed by Stripe, or too long ago, or in the future.
        NotAnEventError: signed, but not an event.
        OSError and its kin: Postgres is away; nothing was kept and Stripe must try again.
    """
    matched = _verify(webhook, [secret.value for secret in secrets], closed=not secrets)
    event = parse(webhook.body)
    signers = [secrets[place] for place in matched]
    reason = _quarantine_reason(event, signers)
    mode = signers[0].mode if reason == "livemode_mismatch" else _mode_of(event)
    tenant = None
    if reason is None and event.account is not None:
        tenant = await directory.find("account", f"{mode}:{event.account}")
        reason = "unknown_account" if tenant is None else None
    taken = _Taken(webhook, event, event.account or PLATFORM_ACCOUNT, reason)
    if reason is not None:
        return await _quarantine(database, PLATFORM_TENANT_ID, mode, taken)
    if tenant is not None:
        _note_use(tenant, mode, event)
        place = _Place(tenant.id, "account")
    else:
        place = await _place(event, mode, directory)
    return await _store(database, place, mode, taken)


async def take_for_tenant(
    webhook: Webhook, endpoint: TenantEndpoint | None, database: Database
) -> Outcome:
    """The same at the URL of a tenant's own account; the account is the URL's, not the body's.

    Args:
        endpoint: None where the URL is nobody's: answered like a wrong signature.

    Raises:
        SignatureRefusedError, NotAnEventError, OSError and its kin: see `take`.
        OtherAccountError: the event names an account that is not the endpoint's.
    """
    found = endpoint.secrets if endpoint else ()
    matched = _verify(webhook, [secret.value for secret in found])
    assert endpoint is not None, "only a secret of an endpoint can have signed"
    event = parse(webhook.body)
    if event.account not in (None, endpoint.account):
        async with database.tenant(endpoint.tenant_id, endpoint.mode) as tx:
            _raise_alarm(tx, "stripe_event_of_another_account", event)
        log.error("webhook_of_another_account", account=endpoint.account, named=event.account)
        raise OtherAccountError
    KEY_USES.note(
        endpoint.tenant_id,
        endpoint.mode,
        "stripe_webhook_secret",
        endpoint.connection_id,
        version=found[matched[0]].version,
    )
    reason = None if _mode_of(event) == endpoint.mode else "livemode_mismatch"
    taken = _Taken(webhook, event, endpoint.account, reason)
    if reason is not None:
        return await _quarantine(database, endpoint.tenant_id, endpoint.mode, taken)
    place = _Place(endpoint.tenant_id, "account")
    return await _store(database, place, endpoint.mode, taken)


def _verify(webhook: Webhook, secrets: Sequence[bytes], *, closed: bool = False) -> tuple[int, ...]:
    """The places of the secrets that signed; as long over nothing as over a wrong signature."""
    verdict = signature.verify(
        webhook.signature_header, webhook.body, secrets, int(utc_now().timestamp())
    )
    if closed:
        raise EndpointClosedError
    if verdict.outcome != "valid":
        log.warning("webhook_refused", reason=verdict.outcome, bytes=len(webhook.body))
        raise SignatureRefusedError(verdict.outcome)
    return verdict.matched


def _note_use(tenant: Tenant, mode: Mode, event: StripeEvent) -> None:
    """A webhook of a connected account came, signed with the platform's secret (version 0)."""
    connection = tenant.connection(mode)
    if connection is not None and connection.account_id == event.account:
        KEY_USES.note(tenant.id, mode, "stripe_webhook_secret", connection.connection_id, version=0)


async def _store(database: Database, place: _Place, mode: Mode, taken: _Taken) -> Outcome:
    """Keep an event of a tenant and publish it, in one commit."""
    async with database.tenant(place.tenant_id, mode) as tx:
        kept = await _keep(tx, taken, place.assignment)
        if kept is None:
            return "duplicate"
        publish(tx, kept)
        if place.assignment == "unassigned":
            _raise_alarm(tx, "stripe_event_unassigned", taken.event)
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
    mode = _mode_of(event)
    if all(mode not in signer.modes for signer in signers):
        return "livemode_mismatch"
    wanted = "platform" if event.account is None else "connect"
    if any(signer.scope == wanted and mode in signer.modes for signer in signers):
        return None
    return "account_missing" if event.account is None else "account_unexpected"


async def _quarantine(database: Database, holder_id: UUID, mode: Mode, taken: _Taken) -> Outcome:
    """Keep an event that is not what its secret stands for; it is not published."""
    async with database.tenant(holder_id, mode) as tx:
        if await _keep(tx, taken, "unassigned") is None:
            return "duplicate"
        _raise_alarm(tx, f"stripe_event_quarantined_{taken.quarantine_reason}", taken.event)
    log.error(
        "webhook_quarantined",
        reason=taken.quarantine_reason,
        account=taken.account,
        stripe_event_id=taken.event.id,
        event_type=taken.event.type,
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


async def _keep(tx: Tx, taken: _Taken, assignment: Assignment) -> store.KeptEvent | None:
    """Store the event; None when its id was taken before."""
    event, webhook = taken.event, taken.webhook
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
        payload=webhook.body,
        headers=dict(webhook.headers),
        received_at=utc_now(),
    )
    took = await store.take_id(tx, kept, hashlib.sha256(webhook.body).digest())
    if not took:
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
