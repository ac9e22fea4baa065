"""Payouts of the platform's account, told apart by tenant: whose money left with them.

The payout itself is a movement of the platform's. Stripe says which balance transactions an automatic
payout is made of, once it has put them together; each of these has an owner. All shares are told in one
transaction. Where the payout comes back, so do they: its money is part of a later payout, and is theirs
there in the same shares.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, PayoutChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.directory.local import Directory, business_now
from libs.messaging.outbox import emit
from libs.money import from_stripe
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.stripe_sync import store_allocations as store
from services.stripe_sync import store_objects
from services.stripe_sync.client import Json, StripeCallError
from services.stripe_sync.identities import Identities, Identity
from services.stripe_sync.objects import id_of

log = structlog.get_logger()

PAYOUTS_AT_ONCE = 10
PAGES_MAX = 1_000
"""100,000 balance transactions of one payout."""
ATTEMPTS_MAX = 80
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 30.0, 6 * 3600.0
"""Doubling; Stripe puts a payout together when it arrives, which takes days: given up after three weeks."""
RETURNS_DEPTH_MAX = 20
"""Payouts one after the other, each made of the one before that came back."""
RETURNED = frozenset({"payout_failure", "payout_cancel"})
"""Movements that bring back what a payout took."""
NOT_COMPLETE = "stripe has not put it together yet"
UNKNOWN_OWNER = "whose a movement is, is not known yet"
NO_SUM = "what it is made of does not add up to it"


class NotYetError(Exception):
    """The shares cannot be told now; the message says why."""


async def note(tx: Tx, fact: PayoutChanged) -> None:
    """A payout was made or came further: have its shares told, or taken back."""
    if fact.account == PLATFORM_ACCOUNT and fact.automatic:
        came_back = fact.status in ("failed", "canceled")
        await store.want(tx, fact.account, fact.stripe_payout_id, utc_now(), came_back=came_back)


async def allocate_due(database: Database, directory: Directory, identities: Identities) -> None:
    """Tell the shares of payouts whose turn it is; one that cannot be told is tried again later."""
    async with database.maintenance() as tx:
        rows = await store.due(tx, utc_now(), PAYOUTS_AT_ONCE)
    for row in rows:
        try:
            if row["state"] == "told":
                await _take_back(database, directory, row)
            elif row["came_back"]:
                # It came back before anything was told: its two movements are the platform's alone.
                async with database.tenant(row["tenant_id"], row["mode"]) as tx:
                    await store.enter(tx, row, "needless")
            else:
                await _allocate(database, directory, identities, row)
        except (StripeCallError, NotYetError) as error:
            await _later(database, row, str(error))
        except (KeyError, TypeError, ValueError) as error:
            log.error("payout_odd", object_id=row["stripe_payout_id"], error=repr(error))  # noqa: TRY400
            await _later(database, row, f"not as this API version has it: {error!r}")


async def _allocate(
    database: Database, directory: Directory, identities: Identities, row: Row
) -> None:
    identity = await identities.of(row["account"], row["mode"])
    if identity is None:
        raise NotYetError("nobody speaks for the account")
    payout = await identity.api.get("payout.retrieve", f"/v1/payouts/{row['stripe_payout_id']}")
    if payout.get("reconciliation_status") != "completed":
        raise NotYetError(NOT_COMPLETE)
    amount = from_stripe(payout["amount"], payout["currency"])
    shares = await _shares(database, identity, row, row["stripe_payout_id"])
    if sum(shares.values()) != amount.amount_minor:
        log.error("payout_does_not_add_up", object_id=row["stripe_payout_id"])
        raise NotYetError(NO_SUM)
    told = [
        {
            "tenant_id": str(tenant_id),
            "share_minor": share,
            "booked_minor": amount.amount_minor if tenant_id == PLATFORM_TENANT_ID else 0,
            "currency": amount.currency,
        }
        for tenant_id, share in sorted(shares.items())
    ]
    await _tell(database, directory, row, "told", told)


async def _shares(
    database: Database, identity: Identity, row: Row, stripe_payout_id: str, depth: int = 0
) -> Mapping[UUID, int]:
    """What of a payout is whose, the platform's in any case.

    Args:
        row: the payout that is to be told, of which this one may be a part that came back.
        depth: of how many that came back this one is a part.

    Raises:
        NotYetError: a movement has no owner yet, or what came back cannot be told apart.
    """
    listed = await identity.api.list_all(
        "balance_transaction.list",
        "/v1/balance_transactions",
        {"payout": stripe_payout_id},
        pages_max=PAGES_MAX,
    )
    made_of = [
        each
        for each in listed
        if each["type"] != "payout"
        and not (each["type"] in RETURNED and id_of(each["source"]) == stripe_payout_id)
    ]
    async with database.transaction() as tx:
        owners = await store_objects.find_owners(
            tx, identity.account, identity.mode, [each["id"] for each in made_of]
        )
    shares: dict[UUID, int] = defaultdict(int, {PLATFORM_TENANT_ID: 0})
    for each in made_of:
        if each["id"] not in owners:
            raise NotYetError(UNKNOWN_OWNER)
        owner = owners[each["id"]].tenant_id
        shares[owner] += from_stripe(each["net"], each["currency"]).amount_minor
        if each["type"] in RETURNED:
            returned = await _returned(database, identity, row, each, depth)
            shares[owner] -= sum(returned.values())
            for tenant_id, share in returned.items():
                shares[tenant_id] += share
    return shares


async def _returned(
    database: Database, identity: Identity, row: Row, movement: Json, depth: int
) -> Mapping[UUID, int]:
    """What of a payout that came back is whose, told or not; nothing of a manual one is a tenant's.

    Raises:
        NotYetError: its parts do not add up to it, or it is one of too many.
    """
    stripe_payout_id = id_of(movement["source"])
    if stripe_payout_id is None or depth >= RETURNS_DEPTH_MAX:
        raise NotYetError(NO_SUM)
    async with database.tenant(row["tenant_id"], row["mode"]) as tx:
        kept = await store.find_shares(tx, row["account"], stripe_payout_id)
    if kept:
        return {UUID(each["tenant_id"]): each["share_minor"] for each in kept}
    payout = await identity.api.get("payout.retrieve", f"/v1/payouts/{stripe_payout_id}")
    if not payout["automatic"]:
        return {}
    shares = await _shares(database, identity, row, stripe_payout_id, depth + 1)
    if sum(shares.values()) != from_stripe(payout["amount"], payout["currency"]).amount_minor:
        raise NotYetError(NO_SUM)
    return shares


async def _take_back(database: Database, directory: Directory, row: Row) -> None:
    await _tell(database, directory, row, "taken_back", None)


async def _tell(
    database: Database,
    directory: Directory,
    row: Row,
    state: str,
    shares: Sequence[Any] | None,
) -> None:
    """Tell every share in one transaction, unless another worker did.

    Args:
        shares: None takes back what was told.
    """
    async with database.tenant(row["tenant_id"], row["mode"]) as tx:
        kept = await store.enter(tx, row, state, shares)
        if kept is None:
            return
        of = [UUID(each["tenant_id"]) for each in kept]
        tenants = await directory.by_ids(of)
        await tx.enter(Scope(tuple(sorted({row["tenant_id"], *of})), row["mode"]))
        sign = -1 if shares is None else 1
        for number, (tenant_id, each) in enumerate(zip(of, kept, strict=True), 1):
            tenant = tenants.get(tenant_id)
            fact = PayoutAllocated(
                account=row["account"],
                stripe_payout_id=row["stripe_payout_id"],
                part=number,
                parts=len(kept),
                share_minor=sign * each["share_minor"],
                booked_minor=sign * each["booked_minor"],
                currency=each["currency"],
                taken_back=shares is None,
            )
            now = business_now(tenant, row["mode"]) if tenant else utc_now()
            emit(tx, fact, effective_at=now, tenant_id=tenant_id)


async def _later(database: Database, row: Row, error: str) -> None:
    attempts = row["attempts"] + 1
    async with database.tenant(row["tenant_id"], row["mode"]) as tx:
        if attempts >= ATTEMPTS_MAX:
            JOB_ITEMS_FAILED_TOTAL.labels(job="allocate_payouts").inc()
            log.error("payout_not_allocated", object_id=row["stripe_payout_id"], error=error)
            await store.enter(tx, row, "failed")
            return
        pause = min(PAUSE_SECONDS_MIN * 2 ** min(attempts, 20), PAUSE_SECONDS_MAX)
        await store.put_off(tx, row, utc_now() + timedelta(seconds=pause), error)
