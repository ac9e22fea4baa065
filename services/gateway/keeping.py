"""Keeping a verified event: whose it is, once, for good, and told to the others in the same commit."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import structlog

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Cause, Tx
from libs.db.tenant import Scope
from libs.directory.local import LookupKind
from libs.ids import new_id
from libs.messaging.outbox import SIGNAL, Letter, compose, send, write
from services.gateway import erasure, store
from services.gateway.store import Asked
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

_NO_CAUSE = Cause()
_FIRST_TIME: Mapping[str, Any] = {"replay_id": None, "dry_run": False}


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


Afterwards = list[Callable[[], None]]
"""What is left to do when something is durable."""


class Kept(NamedTuple):
    """What became of events, and what is left to do when that is durable."""

    outcomes: list[Outcome]
    afterwards: Afterwards


class Sender(NamedTuple):
    """Tells of events that are kept together."""

    service: str
    scope: Scope
    cause: Cause = _NO_CAUSE


async def keep(asked: Asked, sender: Sender, arrivals: Sequence[tuple[Place, Taken]]) -> Kept:
    """Keep events for the tenants of the sender's scope; publish those that are not kept aside.

    Args:
        asked: a transaction in this scope, which keeps them when it commits; or the database,
            where they are durable when this returns.
    """
    entered = [_arrival(sender, place, taken) for place, taken in arrivals]
    found = await store.keep(asked, sender.scope, entered)
    if found.erased:
        # Nothing was kept yet: it is one commit still.
        entered = [
            _with_letters(sender, _blanked(each), taken) if each.event.id in found.erased else each
            for each, (_, taken) in zip(entered, arrivals, strict=True)
        ]
        found = await store.keep(asked, sender.scope, entered, blanked=True)
    kept = Kept([], [SIGNAL.set])
    for each, (_, taken) in zip(entered, arrivals, strict=True):
        reason = each.event.quarantine_reason
        if each.event.id not in found.fresh:
            kept.outcomes.append("duplicate")
            continue
        kept.outcomes.append("stored" if reason is None else "quarantined")
        if reason is not None:
            kept.afterwards.append(partial(taken.context.run, _say_quarantined, taken))
        elif each.event.assignment == "unassigned":
            kept.afterwards.append(partial(taken.context.run, _say_unassigned, taken))
    return kept


def _arrival(sender: Sender, place: Place, taken: Taken) -> store.Arrival:
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
    arrival = store.Arrival(
        tenant_id=place.tenant_id,
        event=kept,
        id_account=_account_of_id(taken),
        digest=hashlib.sha256(taken.body).digest(),
        customer_ids=event.customer_ids,
        letters=(),
    )
    return _with_letters(sender, arrival, taken)


def _blanked(arrival: store.Arrival) -> store.Arrival:
    """The same without the people in it."""
    payload = erasure.redacted(arrival.event.payload)
    event = msgspec.structs.replace(arrival.event, payload=payload)
    return msgspec.structs.replace(arrival, event=event)


def _with_letters(sender: Sender, arrival: store.Arrival, taken: Taken) -> store.Arrival:
    """The same with what tells the others of it, in the context of its own request.

    So its trace goes on from there.
    """
    letters = taken.context.run(_letters, sender, arrival, taken.event)
    return msgspec.structs.replace(arrival, letters=letters)


def _account_of_id(taken: Taken) -> str:
    """Under which account the event's id is taken.

    What cannot be believed takes no id from what can: signed with the right secret, or found in
    Stripe's list, the same event is let in.
    """
    if taken.quarantine_reason in (None, UNKNOWN_ACCOUNT):
        return taken.account
    return f"{QUARANTINED}{taken.account}"


def _letters(sender: Sender, arrival: store.Arrival, event: StripeEvent) -> list[Letter]:
    """What tells the others of an event, and staff of one that is kept aside or is nobody's."""
    kept = arrival.event
    if kept.quarantine_reason is not None:
        kind = f"stripe_event_quarantined_{kept.quarantine_reason}"
        return [_alarm_letter(sender, arrival.tenant_id, kind, event)]
    letters = [_event_letter(sender, arrival.tenant_id, kept)]
    if kept.assignment == "unassigned":
        kind = "stripe_event_unassigned"
        letters.append(_alarm_letter(sender, arrival.tenant_id, kind, event))
    return letters


def publish(
    tx: Tx, kept: store.KeptEvent, *, replay_id: str | None = None, dry_run: bool = False
) -> None:
    """Tell the others of an event that was kept before, or again."""
    told_again = {"replay_id": replay_id, "dry_run": dry_run}
    send(tx, _event_letter(tx, tx.tenant_id, kept, told_again))


def _event_letter(
    sender: Tx | Sender,
    tenant_id: UUID,
    kept: store.KeptEvent,
    told_again: Mapping[str, Any] = _FIRST_TIME,
) -> Letter:
    travels = len(kept.payload) <= PAYLOAD_BYTES_MAX
    return compose(
        sender,
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
            **told_again,
        },
        effective_at=kept.event_created_at,
        tenant_id=tenant_id,
        cause=sender.cause,
    )


def raise_alarm(tx: Tx, kind: str, event: StripeEvent) -> None:
    """Record a security event of something Stripe sent."""
    send(tx, _alarm_letter(tx, tx.tenant_id, kind, event))


def _alarm_letter(sender: Tx | Sender, tenant_id: UUID, kind: str, event: StripeEvent) -> Letter:
    alarm = SecurityEventRaised(
        kind=kind,
        severity="warning",
        actor="stripe",
        service=sender.service,
        method="POST",
        path=f"webhook/{event.account or PLATFORM_ACCOUNT}/{event.id}",
    )
    now, cause = utc_now(), sender.cause
    _, letter = write(sender, alarm, effective_at=now, tenant_id=tenant_id, cause=cause)
    return letter


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
