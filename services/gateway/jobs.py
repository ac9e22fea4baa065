"""Timed work of the gateway."""

import structlog

from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.db.tenant import Scope
from services.gateway import intake, store

log = structlog.get_logger()

ACCOUNTS_MAX = 20
EVENTS_MAX = 200


async def release_quarantined(database: Database) -> None:
    """Give waiting events of accounts that were connected since to their tenants.

    Stripe tells of a new connection before we know of it ourselves. Each batch is one commit: the
    event changes hands and is published, or neither.
    """
    async with database.maintenance() as tx:
        known = await store.known_waiting_accounts(tx, ACCOUNTS_MAX)
    for row in known:
        await _release(database, row)


async def _release(database: Database, row: Row) -> None:
    tenant_id, mode = row["tenant_id"], _mode(row["mode"])
    async with database.transaction(Scope((PLATFORM_TENANT_ID, tenant_id), mode)) as tx:
        events = await store.hand_over(
            tx, PLATFORM_TENANT_ID, tenant_id, mode, row["account"], EVENTS_MAX
        )
        await tx.enter(Scope((tenant_id,), mode))
        for event in events:
            intake.publish(tx, event)
    log.info(
        "webhooks_released",
        account=row["account"],
        mode=mode,
        tenant_id=str(tenant_id),
        events=len(events),
    )


def _mode(text: str) -> Mode:
    return "live" if text == "live" else "test"
