"""Taking in an event that never arrived as a webhook, but stands in Stripe's own list of events.

Nobody but our own stripe_sync vouches for it. So the account, mode and tenant are those that
stripe_sync asked Stripe for, and an event that says otherwise is kept aside.
"""

from uuid import UUID

from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, StripeEventFound
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Tx
from libs.db.tenant import Scope
from services.gateway import keeping, store
from services.gateway.keeping import UNKNOWN_ACCOUNT, Outcome, Place, Taken
from services.gateway.stripe_event import StripeEvent, parse

SOURCE = "stripe_events_list"
"""Stands where a webhook's headers do."""


async def take(tx: Tx, envelope: Envelope[StripeEventFound]) -> Outcome:
    """Keep what was found, like a webhook of that account; the same event is kept once.

    Raises:
        NotAnEventError: the payload is no event of Stripe's.
    """
    here, data = tx.scope, envelope.data
    event = parse(data.payload.encode())

    wanted: list[tuple[str, str]] = [("account", f"{tx.mode}:{data.account}")]
    wanted += [(kind, value) for kind, value, _ in keeping.look_ups(event, tx.mode)]
    found = await store.find_tenant_ids(tx, wanted)
    owner_id = found.get(wanted[0]) if data.account != PLATFORM_ACCOUNT else None
    reason = _quarantine_reason(event, envelope, owner_id)
    if reason is not None:
        place = Place(PLATFORM_TENANT_ID, "unassigned")
    elif owner_id is not None:
        place = Place(owner_id, "account")
    else:
        place = keeping.place_of(event, tx.mode, found)
    taken = Taken(
        event=event,
        account=data.account,
        body=data.payload.encode(),
        headers={"source": SOURCE},
        received_at=envelope.occurred_at,
        quarantine_reason=reason,
    )
    scope = Scope((place.tenant_id,), tx.mode)
    await tx.enter(scope)
    sender = keeping.Sender(tx.service, scope, tx.cause)
    kept = await keeping.keep(tx, sender, [(place, taken)])
    tx.after_commit.extend(kept.afterwards)
    await tx.enter(here)
    return kept.outcomes[0]


def _quarantine_reason(
    event: StripeEvent, envelope: Envelope[StripeEventFound], owner_id: UUID | None
) -> str | None:
    """Why what was found is kept aside: it is not of the scope that was asked for."""
    data = envelope.data
    if event.id != data.stripe_event_id:
        return "event_mismatch"
    if event.mode != envelope.mode:
        return "livemode_mismatch"
    own = None if data.account == PLATFORM_ACCOUNT else data.account
    if event.account not in (None, own):
        return "account_unexpected"
    if own is not None and owner_id is None:
        return UNKNOWN_ACCOUNT
    if own is not None and owner_id != envelope.tenant_id:
        return "tenant_mismatch"
    return None
