"""Credit that expires unused: told when the tenant's business clock has passed its time.

An invoice of a period from before that time may be made later, and uses the credit all the same: then
as much of the expiry is taken back.
"""

from datetime import datetime

import structlog

from libs.clock import utc_now
from libs.contracts.billing import CreditExpired
from libs.db.pool import Database, Row, Tx
from libs.messaging.outbox import emit
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.billing import prepaid, store_customers
from services.billing import store_credits as store

log = structlog.get_logger()

GRANTS_MAX = 200
"""Grants of a tenant that expire in one transaction."""


async def expire_due(database: Database, *, limit: int) -> None:
    """Let expire what is due, tenant by tenant; a tenant that fails holds up no other."""
    now = utc_now()
    for due in await store.list_expiring(database, now, limit=limit):
        try:
            async with database.tenant(due.tenant_id, due.mode) as tx:
                await expire(tx, now + due.clock_offset)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="expire_credits").inc()
            log.exception("credit_expiry_failed", tenant_id=str(due.tenant_id))


async def expire(tx: Tx, at: datetime) -> None:
    """Let expire what is left of the tenant's grants whose time was up by then."""
    await store_customers.lock_tenant(tx)
    grants = await store.lock_expiring(tx, at, limit=GRANTS_MAX)
    for grant in grants:
        left = grant["amount_minor"] - grant["used_minor"] - grant["expired_minor"]
        await store.add_expiry(tx, grant["id"], left)
        _tell(tx, grant, left)
    for customer_id in sorted({grant["customer_id"] for grant in grants}):
        await prepaid.renew(tx, customer_id, at)


def take_back(tx: Tx, grant: Row, used_minor: int) -> None:
    """Tell that so much of a grant is used now, and that what had expired of it is less by that.

    Args:
        grant: as it was before.
    """
    left = grant["amount_minor"] - grant["used_minor"] - used_minor
    too_much = grant["expired_minor"] - min(grant["expired_minor"], left)
    if too_much:
        _tell(tx, grant, -too_much)


def _tell(tx: Tx, grant: Row, amount_minor: int) -> None:
    fact = CreditExpired(
        grant_id=grant["id"],
        customer_id=grant["customer_id"],
        billed_by=grant["billed_by"],
        currency=grant["currency"],
        sequence=grant["expiries_told"] + 1,
        amount_minor=amount_minor,
    )
    emit(tx, fact, effective_at=grant["expires_at"])
