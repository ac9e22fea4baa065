"""Letting go what is kept aside, by hand: staff say that an event is what it says, and why.

It is kept once more as what it says it is, by the way that every webhook takes, so the id it names is
taken there: whatever Stripe sends of the same event, before or after, there is one effect.
"""

from typing import NamedTuple
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.gateway import keeping, store, store_quarantine
from services.gateway.keeping import UNKNOWN_ACCOUNT, Outcome, Place, Taken
from services.gateway.store_quarantine import RELEASED
from services.gateway.stripe_event import StripeEvent, parse


class NoSuchEventError(Exception):
    """There is no event of this id."""


class NotHeldError(Exception):
    """The event is not in quarantine, or waits for nothing but its account."""


class Wish(NamedTuple):
    """Who lets an event go, and why; or only wants to see what that would do."""

    actor: str
    why: str
    dry_run: bool


class Released(NamedTuple):
    """What became of the event: kept now, known before, or waiting for its account."""

    outcome: Outcome
    tenant_id: UUID
    account: str
    mode: Mode


class _TakeBackError(Exception):
    """Ends the transaction of a dry run."""

    def __init__(self, released: Released) -> None:
        self.released = released


async def release(database: Database, event_id: UUID, mode: Mode, wish: Wish) -> Released:
    """Let an event go; a dry run does all of it and takes it back.

    Raises:
        NoSuchEventError, NotHeldError.
    """
    async with database.maintenance() as tx:
        row = await store.find_event(tx, mode, event_id)
    if row is None:
        raise NoSuchEventError
    try:
        async with database.transaction(Scope((row["tenant_id"],), mode)) as tx:
            released, afterwards = await _release(tx, row, wish)
            tx.after_commit.extend(afterwards)
    except _TakeBackError as taken_back:
        return taken_back.released
    return released


async def _release(tx: Tx, row: Row, wish: Wish) -> tuple[Released, keeping.Afterwards]:
    holder_id, reason = row["tenant_id"], row["quarantine_reason"]
    if reason in (None, UNKNOWN_ACCOUNT, RELEASED):
        raise NotHeldError
    if not await store_quarantine.mark_released(tx, holder_id, row["id"], reason):
        # Somebody was faster.
        raise NotHeldError
    event = parse(row["payload"])
    place, account, waits_for = await _place(tx, row, event)
    taken = Taken(event, account, row["payload"], row["headers"], row["received_at"], waits_for)
    scope = Scope((place.tenant_id,), event.mode)
    await tx.enter(scope)
    kept = await keeping.keep(tx, keeping.Sender(tx.service, scope, tx.cause), [(place, taken)])
    released = Released(kept.outcomes[0], place.tenant_id, account, event.mode)
    emit(
        tx,
        ConfigurationChanged(
            action="webhook_event.released",
            actor=wish.actor,
            object_id=public_id("webhook_event", row["id"]),
            before={"tenant_id": str(holder_id), "quarantine_reason": reason},
            after={
                "tenant_id": str(place.tenant_id),
                "stripe_event_id": event.id,
                "outcome": released.outcome,
                "why": wish.why,
            },
        ),
    )
    if wish.dry_run:
        raise _TakeBackError(released)
    return released, kept.afterwards


async def _place(tx: Tx, row: Row, event: StripeEvent) -> tuple[Place, str, str | None]:
    """Whose the event is if it is believed, of which account, and what it waits for even so.

    What came to a tenant's own URL is that tenant's and its account's, whatever the body says.
    """
    if row["tenant_id"] != PLATFORM_TENANT_ID:
        return Place(row["tenant_id"], "account"), row["account"], None
    account = event.account or row["account"]
    wanted: list[tuple[str, str]] = [("account", f"{event.mode}:{account}")]
    wanted += [(kind, value) for kind, value, _ in keeping.look_ups(event, event.mode)]
    found = await store.find_tenant_ids(tx, wanted)
    if account == PLATFORM_ACCOUNT:
        return keeping.place_of(event, event.mode, found), account, None
    owner_id = found.get(wanted[0])
    if owner_id is None:
        return Place(PLATFORM_TENANT_ID, "unassigned"), account, UNKNOWN_ACCOUNT
    return Place(owner_id, "account"), account, None
