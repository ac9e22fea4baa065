"""Access that Stripe has given and nobody took: found by what stands with the way back, and given back.

The process that exchanged a code may die before it has connected the account. The account is kept with
the state as soon as Stripe has told it, so it is known here; where even that was not reached, Stripe may
have given access to an account that only its dashboard tells, and an alarm says so.
"""

from datetime import timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from services.tenants import store_connections as store
from services.tenants import store_tenants
from services.tenants.connection_states import SYSTEM
from services.tenants.means import Means
from services.tenants.stripe_api import NotConfiguredError, StripeAwayError, StripeError

log = structlog.get_logger()

BATCH = 20
RETRY = timedelta(minutes=5)
IN_DOUBT = "stripe_access_in_doubt"


async def run_once(means: Means) -> None:
    """See to exchanges that were not settled in time, a batch at a time."""
    async with means.database.maintenance() as tx:
        rows = await store.unsettled(tx, utc_now(), BATCH)
    for row in rows:
        await _settle(means, row)


async def _settle(means: Means, row: Row) -> None:
    tenant_id, mode, digest = row["tenant_id"], row["mode"], row["state_hash"]
    account_id: str | None = row["exchanged_account"]
    async with means.database.tenant(tenant_id, mode) as tx:
        await store_tenants.lock_tenant(tx)
        if account_id is None:
            _warn(tx)
            await store.settle(tx, digest)
            return
        had_before = await store.has_account(tx, account_id)
        if await _is_connected(tx, account_id) or not await store.claim_account(tx, account_id):
            # It was connected after all, by this tenant or by another.
            await store.settle(tx, digest)
            return
        await store.begin_exchange(tx, digest, utc_now() + RETRY)
    given_back = True
    try:
        await means.stripe.deauthorize(mode, account_id)
    except (StripeAwayError, NotConfiguredError):
        given_back = False
    except StripeError as error:
        log.info("access_was_given_back_before", code=error.code)
    async with means.database.tenant(tenant_id, mode) as tx:
        await store_tenants.lock_tenant(tx)
        if not had_before and not await _is_connected(tx, account_id):
            await store.release_account(tx, account_id)
        if given_back:
            await store.settle(tx, digest)
            log.warning("left_over_access_given_back", account=account_id)


async def _is_connected(tx: Tx, account_id: str) -> bool:
    row = await store.find_connection(tx)
    return bool(row and row["account_id"] == account_id and row["status"] == "CONNECTED")


def _warn(tx: Tx) -> None:
    """Stripe was asked for access and its answer never came: somebody must look there."""
    SECURITY_EVENTS_TOTAL.labels(kind=IN_DOUBT, severity="warning").inc()
    emit(
        tx,
        SecurityEventRaised(
            kind=IN_DOUBT,
            severity="warning",
            actor=SYSTEM,
            service=tx.service,
            method="POST",
            path="/oauth/token",
        ),
    )
