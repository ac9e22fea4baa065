"""Balance transactions: every movement of a Stripe account's money, recorded once.

Most have no event of their own, so besides coming with their charge they are listed again and again,
with an overlap. The claim of an id is unique over all tenants: whoever is first records it. Each
leads to the object that moved the money, should the object's own events have been lost.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.directory.local import Directory, business_now
from libs.messaging.outbox import emit
from services.stripe_sync import store_marks, store_objects, store_transactions
from services.stripe_sync.client import Json
from services.stripe_sync.identities import Identity
from services.stripe_sync.objects import id_of
from services.stripe_sync.objects_money import source_of, transaction_fact
from services.stripe_sync.owners import (
    ATTEMPTS_BEFORE_GIVING_UP,
    Foundling,
    UnknownOwnerError,
    resolve_all,
)
from services.stripe_sync.payments import collected_by
from services.stripe_sync.store_objects import Owner

log = structlog.get_logger()

OVERLAP = timedelta(minutes=15)
FIRST_LOOK_BACK = timedelta(days=35)
"""On the platform's account. What moved on a tenant's before it was connected is not ours."""
STRANGER_AFTER = timedelta(minutes=5)
PAGES_MAX = 100


async def record(tx: Tx, account: str, raw: Json, owner: Owner, *, effective_at: datetime) -> bool:
    """Record a balance transaction for the tenant in scope; False where it is recorded already."""
    fact = transaction_fact(raw, account=account, collected_by=collected_by(account))
    claimed = await store_objects.claim(
        tx, account, fact.stripe_balance_transaction_id, owner.customer_id
    )
    if not claimed:
        return False
    kept = raw | {"source": fact.source_id}
    await store_transactions.insert_transaction(tx, account, fact.model_dump(), kept)
    emit(tx, fact, effective_at=effective_at)
    return True


async def list_transactions(database: Database, directory: Directory, identity: Identity) -> int:
    """List what came since the last time and record what is missing; how many that were.

    The cursor moves only when the whole list was read and everything on it has an owner.

    Raises:
        StripeCallError: Stripe did not answer; nothing is forgotten.
        UnknownOwnerError: a payment's customer is not known yet.
    """
    started_at, account, mode = utc_now(), identity.account, identity.mode
    async with database.transaction() as tx:
        cursor = await store_transactions.read_cursor(tx, account, mode)
    look_back = FIRST_LOOK_BACK if identity.is_platform else OVERLAP
    since = (cursor - OVERLAP) if cursor else (started_at - look_back)
    found = await identity.api.list_all(
        "balance_transaction.list",
        "/v1/balance_transactions",
        {"created": {"gte": int(since.timestamp())}, "expand": ["data.source"]},
        pages_max=PAGES_MAX,
    )
    recorded, waiting = await record_listed(database, directory, identity, found[::-1])
    if waiting:
        raise UnknownOwnerError(f"{waiting} balance transactions wait for their customer")
    async with database.transaction() as tx:
        await store_transactions.move_cursor(tx, account, mode, started_at)
    if recorded:
        log.info("balance_transactions_found", account=account, recorded=recorded)
    return recorded


async def record_listed(
    database: Database, directory: Directory, identity: Identity, listed: Sequence[Json]
) -> tuple[int, int]:
    """Record those listed balance transactions that are missing, the oldest first.

    Args:
        listed: with `source` expanded.

    Returns:
        How many were recorded, and how many wait for their owner to be known.
    """
    async with database.transaction() as tx:
        ids = [raw["id"] for raw in listed]
        known = await store_objects.find_owners(tx, identity.account, identity.mode, ids)
    missing = [raw for raw in listed if raw["id"] not in known]
    owners = await resolve_all(
        database, directory, identity, [_foundling(identity, raw) for raw in missing]
    )
    recorded, waiting = 0, 0
    for raw, owner in zip(missing, owners, strict=True):
        if isinstance(owner, UnknownOwnerError):
            waiting += 1
            await _look_at_source(database, identity, raw, identity.tenant_id)
            continue
        tenant = await directory.by_id(owner.tenant_id)
        now = business_now(tenant, identity.mode) if tenant else utc_now()
        async with database.tenant(owner.tenant_id, identity.mode) as tx:
            if await record(tx, identity.account, raw, owner, effective_at=now):
                recorded += 1
                source = source_of(raw)
                if source and not await store_objects.mentions(
                    tx, identity.account, *source, raw["id"]
                ):
                    await store_marks.mark(tx, identity.account, [source])
    return recorded, waiting


def _foundling(identity: Identity, raw: Json) -> Foundling:
    stranger = utc_now() - from_unix(raw["created"]) > STRANGER_AFTER
    hint: UUID = PLATFORM_TENANT_ID if identity.is_platform else identity.tenant_id
    attempts = ATTEMPTS_BEFORE_GIVING_UP if stranger else 0
    return Foundling("balance_transaction", raw["id"], raw, hint, attempts)


async def _look_at_source(
    database: Database, identity: Identity, raw: Json, tenant_id: UUID
) -> None:
    """Fetch the payment behind a movement: it tells whose it is, should its events have been lost."""
    source = raw["source"] if isinstance(raw["source"], dict) else {}
    intent_id, charge_id = id_of(source.get("payment_intent")), id_of(source.get("charge"))
    behind = ("payment_intent", intent_id) if intent_id else ("charge", charge_id)
    kind, object_id = behind if behind[1] else (source_of(raw) or behind)
    if object_id is not None:
        async with database.tenant(tenant_id, identity.mode) as tx:
            await store_marks.mark(tx, identity.account, [(kind, object_id)])
