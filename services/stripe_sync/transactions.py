"""Balance transactions: every movement of a Stripe account's money, recorded once.

Most have no event of their own, so besides coming with their charge they are listed again and again,
with an overlap. The claim of an id is unique over all tenants: whoever is first records it. Each
leads to the object that moved the money, should the object's own events have been lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.stripe_sync import BalanceTransactionRecorded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.directory.local import Directory, Tenant, business_now
from libs.messaging.outbox import emit
from libs.observability.metrics import STRIPE_OBJECTS_UNREADABLE_TOTAL
from services.stripe_sync import beginnings, store_marks, store_objects, store_transactions
from services.stripe_sync.client import PAGE_SIZE, Json, StripeRefusedError
from services.stripe_sync.identities import Identity
from services.stripe_sync.marks import BALANCE, made_at
from services.stripe_sync.objects import UnreadableObjectError, id_of
from services.stripe_sync.objects_money import source_of, transaction_fact
from services.stripe_sync.owners import (
    ATTEMPTS_BEFORE_GIVING_UP,
    Foundling,
    UnknownOwnerError,
    resolve_all,
)
from services.stripe_sync.payments import collected_by
from services.stripe_sync.store_marks import Mark
from services.stripe_sync.store_objects import Owner
from services.stripe_sync.store_transactions import Listing

log = structlog.get_logger()

OVERLAP = timedelta(minutes=15)
FIRST_LOOK_BACK = timedelta(days=35)
"""On the platform's account. What moved on a tenant's before it was connected is not ours."""
STRANGER_AFTER = timedelta(minutes=5)
STRETCH_PAGES_MAX = 20
"""Read at once and recorded, the oldest first; what a list has beyond them, the next run reads."""
AT_ONCE = 200
"""Balance transactions that are recorded in one transaction."""


@dataclass(frozen=True)
class Movement:
    """A balance transaction as Stripe has it, whose it is, and that tenant's business time."""

    raw: Json
    owner: Owner
    now: datetime


async def record_all(tx: Tx, account: str, movements: Sequence[Movement]) -> list[Movement]:
    """Record balance transactions whose tenants are in scope; those that were not recorded before.

    One that cannot be read is left aside, and claimed by nobody: a sweep comes upon it again.
    """
    facts = _readable(account, movements)
    if not facts:
        return []
    readable = [each for each in movements if each.raw["id"] in facts]
    claimed = await store_objects.claim_all(
        tx, account, [(each.raw["id"], each.owner) for each in readable]
    )
    new = [each for each in readable if each.raw["id"] in claimed]
    await store_transactions.insert_transactions(
        tx,
        account,
        [
            (
                each.owner.tenant_id,
                facts[each.raw["id"]].model_dump(),
                _kept(each.raw, facts[each.raw["id"]].source_id),
            )
            for each in new
        ],
    )
    for each in new:
        tenant_id = each.owner.tenant_id
        emit(tx, facts[each.raw["id"]], effective_at=each.now, tenant_id=tenant_id)
    return new


def _readable(account: str, movements: Sequence[Movement]) -> dict[str, BalanceTransactionRecorded]:
    """What is said of each, by id; nothing of those that cannot be read."""
    facts = {}
    for each in movements:
        try:
            facts[each.raw["id"]] = transaction_fact(
                each.raw, account=account, collected_by=collected_by(account)
            )
        except UnreadableObjectError as error:
            STRIPE_OBJECTS_UNREADABLE_TOTAL.labels(object_type="balance_transaction").inc()
            log.error(  # noqa: TRY400 - the message says all
                "balance_transaction_unreadable",
                account=account,
                balance_transaction=each.raw["id"],
                error=str(error),
            )
    return facts


def _kept(raw: Json, source_id: str | None) -> Json:
    """What is kept of a balance transaction: not its free words, for rows are never changed."""
    kept = {name: value for name, value in raw.items() if name != "description"}
    return kept | {"source": source_id}


async def list_transactions(database: Database, directory: Directory, identity: Identity) -> int:
    """List what came since the last time and record what is missing; how many that were.

    Stripe lists the newest first. Of a long list each run records a stretch, remembers how far down
    it has come and marks the account for the next one. When the end is reached the cursor moves, not
    beyond the oldest transaction that waits for its owner.

    Raises:
        StripeCallError: Stripe did not answer; nothing is forgotten.
        UnknownOwnerError: a payment's customer is not known yet.
    """
    account, mode = identity.account, identity.mode
    listing = await _begin(database, identity)
    found, read_to = await _read_stretch(database, identity, listing)
    recorded, waiting = await record_listed(database, directory, identity, found[::-1])
    listed_to = min([listing.listed_to, *(from_unix(raw["created"]) for raw in waiting)])
    async with database.tenant(identity.tenant_id, mode) as tx:
        if read_to is not None:
            await store_transactions.pause_listing(tx, account, mode, listed_to, read_to)
            await store_marks.mark(tx, account, [BALANCE])
        else:
            await store_transactions.move_cursor(tx, account, mode, listed_to)
    if recorded:
        log.info("balance_transactions_found", account=account, recorded=recorded)
    if waiting and read_to is None:
        raise UnknownOwnerError(f"{len(waiting)} balance transactions wait for their customer")
    return recorded


async def _begin(database: Database, identity: Identity) -> Listing:
    """The listing that is under way, or a new one from the cursor to now."""
    now = utc_now()
    async with database.tenant(identity.tenant_id, identity.mode) as tx:
        began_at = await beginnings.ours_from(tx, identity.tenant_id, identity.account)
        first = began_at or now - FIRST_LOOK_BACK + OVERLAP
        return await store_transactions.read_listing(
            tx, identity.account, identity.mode, first=first, now=now
        )


async def _read_stretch(
    database: Database, identity: Identity, listing: Listing
) -> tuple[list[Json], str | None]:
    """Some pages, newest first, and the id after which the list goes on; None at its end."""
    since = {"gte": int((listing.cursor - OVERLAP).timestamp())}
    found: list[Json] = []
    after = listing.read_to
    for _ in range(STRETCH_PAGES_MAX):
        query: Json = {"created": since, "expand": ["data.source"], "limit": PAGE_SIZE}
        if after is not None:
            query["starting_after"] = after
        try:
            page = await identity.api.get(
                "balance_transaction.list", "/v1/balance_transactions", query
            )
        except StripeRefusedError:
            # The place may be gone (test data can be deleted): the next run begins at the top.
            async with database.transaction() as tx:
                await store_transactions.drop_listing(tx, identity.account, identity.mode)
            raise
        found += page["data"]
        if not page["has_more"] or not page["data"]:
            return found, None
        after = page["data"][-1]["id"]
    return found, after


async def record_listed(
    database: Database, directory: Directory, identity: Identity, listed: Sequence[Json]
) -> tuple[int, list[Json]]:
    """Record those listed balance transactions that are missing, the oldest first.

    Args:
        listed: with `source` expanded.

    Returns:
        How many were recorded, and those that wait for their owner to be known.
    """
    async with database.tenant(identity.tenant_id, identity.mode) as tx:
        began_at = await beginnings.ours_from(tx, identity.tenant_id, identity.account)
        listed = [raw for raw in listed if not beginnings.moved_before(raw, began_at)]
        ids = [raw["id"] for raw in listed]
        known = await store_objects.find_owners(tx, identity.account, identity.mode, ids)
    missing = [raw for raw in listed if raw["id"] not in known]
    owners = await resolve_all(
        database, directory, identity, [_foundling(identity, raw) for raw in missing]
    )
    found = [
        (raw, owner) for raw, owner in zip(missing, owners, strict=True) if isinstance(owner, Owner)
    ]
    waiting = [
        raw for raw, owner in zip(missing, owners, strict=True) if not isinstance(owner, Owner)
    ]
    await _look_behind(database, identity, waiting)
    tenants = await directory.by_ids(owner.tenant_id for _, owner in found)
    recorded = 0
    for start in range(0, len(found), AT_ONCE):
        recorded += await _record_some(database, identity, tenants, found[start : start + AT_ONCE])
    return recorded, waiting


async def _record_some(
    database: Database,
    identity: Identity,
    tenants: Mapping[UUID, Tenant],
    found: Sequence[tuple[Json, Owner]],
) -> int:
    """Record some in one transaction, and have those objects fetched that they lead to."""
    account, mode = identity.account, identity.mode
    movements = []
    for raw, owner in found:
        tenant = tenants.get(owner.tenant_id)
        now = business_now(tenant, mode) if tenant else utc_now()
        movements.append(Movement(raw, owner, now))
    scope = Scope(tuple(sorted({owner.tenant_id for _, owner in found})), mode)
    async with database.transaction(scope) as tx:
        new = await record_all(tx, account, movements)
        movers = [
            (_mark(identity, each.owner.tenant_id, source, each.raw), each.raw["id"])
            for each in new
            if (source := source_of(each.raw)) is not None
        ]
        unmentioned = await store_objects.unmentioned(
            tx,
            account,
            [
                (mark.tenant_id, mark.object_type, mark.object_id, transaction_id)
                for mark, transaction_id in movers
            ],
        )
        behind = [
            mark
            for mark, _ in movers
            if (mark.tenant_id, mark.object_type, mark.object_id) in unmentioned
        ]
        await store_marks.mark_each(tx, behind)
    return len(new)


def _foundling(identity: Identity, raw: Json) -> Foundling:
    stranger = utc_now() - from_unix(raw["created"]) > STRANGER_AFTER
    hint: UUID = PLATFORM_TENANT_ID if identity.is_platform else identity.tenant_id
    attempts = ATTEMPTS_BEFORE_GIVING_UP if stranger else 0
    return Foundling("balance_transaction", raw["id"], raw, hint, attempts)


async def _look_behind(database: Database, identity: Identity, waiting: Sequence[Json]) -> None:
    """Fetch the payments behind movements: they tell whose these are, should events have been lost."""
    marks = [
        _mark(identity, identity.tenant_id, behind, raw)
        for raw in waiting
        if (behind := _payment_behind(raw)) is not None
    ]
    if marks:
        async with database.tenant(identity.tenant_id, identity.mode) as tx:
            await store_marks.mark_each(tx, marks)


def _payment_behind(raw: Json) -> tuple[str, str] | None:
    """(type, id) of the payment that a movement is about, else of what moved the money."""
    source = raw["source"] if isinstance(raw["source"], dict) else {}
    intent_id, charge_id = id_of(source.get("payment_intent")), id_of(source.get("charge"))
    if intent_id is not None:
        return "payment_intent", intent_id
    return ("charge", charge_id) if charge_id is not None else source_of(raw)


def _mark(identity: Identity, tenant_id: UUID, behind: tuple[str, str], raw: Json) -> Mark:
    """That what is behind a movement is to be fetched, with the times that the movement tells.

    Of a backlog, which has thousands, they are so read in lists. A payment is made before its charge,
    as that is before what is given back of it.
    """
    source = raw["source"] if isinstance(raw["source"], dict) else {}
    return Mark(
        tenant_id,
        identity.account,
        *behind,
        made_at=made_at(source),
        told_at=from_unix(raw["created"]),
    )
