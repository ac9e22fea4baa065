"""Balance transactions: every movement of a Stripe account's money, recorded once.

Most have no event of their own, so besides coming with their charge they are listed again and again,
with an overlap. The claim of an id is unique over all tenants: whoever is first records it.
"""

from datetime import datetime, timedelta

import structlog

from libs.clock import from_unix, utc_now
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.directory.local import Directory, business_now
from libs.messaging.outbox import emit
from services.stripe_sync import store_objects
from services.stripe_sync.client import Json
from services.stripe_sync.identities import Identity
from services.stripe_sync.objects import transaction_fact
from services.stripe_sync.owners import (
    ATTEMPTS_BEFORE_GIVING_UP,
    UnknownOwnerError,
    owner_in_account,
    resolve,
)
from services.stripe_sync.store_objects import Owner

log = structlog.get_logger()

OVERLAP = timedelta(minutes=15)
FIRST_LOOK_BACK = timedelta(days=35)
"""On the platform's account. What moved on a tenant's before it was connected is not ours."""
STRANGER_AFTER = timedelta(minutes=5)
PAGES_MAX = 100


async def record(tx: Tx, account: str, raw: Json, owner: Owner, *, effective_at: datetime) -> bool:
    """Record a balance transaction for the tenant in scope; False where it is recorded already."""
    fact = transaction_fact(
        raw, account=account, collected_by="platform" if account == PLATFORM_ACCOUNT else "tenant"
    )
    claimed = await store_objects.claim(
        tx, account, fact.stripe_balance_transaction_id, owner.customer_id
    )
    if not claimed:
        return False
    kept = raw | {"source": fact.source_id}
    await store_objects.insert_transaction(tx, account, fact.model_dump(), kept)
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
        cursor = await store_objects.read_cursor(tx, account, mode)
    look_back = FIRST_LOOK_BACK if identity.is_platform else OVERLAP
    since = (cursor - OVERLAP) if cursor else (started_at - look_back)
    found = await identity.api.list_all(
        "balance_transaction.list",
        "/v1/balance_transactions",
        {"created": {"gte": int(since.timestamp())}, "expand": ["data.source"]},
        pages_max=PAGES_MAX,
    )
    recorded, waiting = 0, 0
    for raw in reversed(found):
        try:
            recorded += await _record_listed(database, directory, identity, raw)
        except UnknownOwnerError:
            waiting += 1
    if waiting:
        raise UnknownOwnerError(f"{waiting} balance transactions wait for their customer")
    async with database.transaction() as tx:
        await store_objects.move_cursor(tx, account, mode, started_at)
    if recorded:
        log.info("balance_transactions_found", account=account, recorded=recorded)
    return recorded


async def _record_listed(
    database: Database, directory: Directory, identity: Identity, raw: Json
) -> bool:
    account, mode = identity.account, identity.mode
    async with database.transaction() as tx:
        if await store_objects.find_owner(tx, account, mode, raw["id"]) is not None:
            return False
    if identity.is_platform:
        stranger = utc_now() - from_unix(raw["created"]) > STRANGER_AFTER
        owner = await resolve(
            database,
            directory,
            account,
            mode,
            raw["id"],
            raw,
            hint=PLATFORM_TENANT_ID,
            attempts=ATTEMPTS_BEFORE_GIVING_UP if stranger else 0,
        )
    else:
        owner = await owner_in_account(database, identity, raw["id"], raw)
    tenant = await directory.by_id(owner.tenant_id)
    now = business_now(tenant, mode) if tenant else utc_now()
    async with database.tenant(owner.tenant_id, mode) as tx:
        return await record(tx, account, raw, owner, effective_at=now)
