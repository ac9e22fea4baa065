"""Events kept aside: how many there are, who is told, and when they are let go.

A verified event waits in quarantine when its account or mode is not what the secret that signed it
stands for. That of an account nobody has connected goes to its tenant when somebody has.
"""

from datetime import datetime, timedelta

import structlog

from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.db.tenant import Scope
from libs.observability.metrics import WEBHOOKS_QUARANTINED
from services.gateway import erasure, keeping, store_quarantine
from services.gateway.keeping import UNKNOWN_ACCOUNT

log = structlog.get_logger()

ACCOUNTS_MAX = 20
EVENTS_MAX = 200
PATIENCE = timedelta(minutes=5)
"""Stripe tells of a new connection before we know of it; for so long that is no error."""

REASONS = (
    "account_missing",
    "account_unexpected",
    "event_mismatch",
    "livemode_mismatch",
    "tenant_mismatch",
    UNKNOWN_ACCOUNT,
)


async def release(database: Database) -> None:
    """Give waiting events of accounts that were connected since to their tenants.

    Each batch is one commit: the event changes hands and is published, or neither.
    """
    async with database.maintenance() as tx:
        known = await store_quarantine.known_waiting_accounts(tx, ACCOUNTS_MAX)
    for row in known:
        await _release(database, row)


async def tell(database: Database, now: datetime) -> None:
    """Count what is in quarantine, and say once of each account that it stays unknown."""
    async with database.maintenance() as tx:
        counts = await store_quarantine.count_by_reason(tx, now - PATIENCE)
        overdue = await store_quarantine.enter_unknown(
            tx, PLATFORM_TENANT_ID, now - PATIENCE, now, ACCOUNTS_MAX
        )
    for reason in REASONS:
        WEBHOOKS_QUARANTINED.labels(reason=reason).set(counts.get(reason, 0))
    for row in overdue:
        log.error("webhooks_of_an_unknown_account", account=row["account"], mode=row["mode"])


async def _release(database: Database, row: Row) -> None:
    tenant_id, mode, account = row["tenant_id"], _mode(row["mode"]), row["account"]
    async with database.transaction(Scope((PLATFORM_TENANT_ID, tenant_id), mode)) as tx:
        events = await store_quarantine.hand_over(
            tx, PLATFORM_TENANT_ID, tenant_id, mode, account, EVENTS_MAX
        )
        await store_quarantine.forget_unknown(tx, PLATFORM_TENANT_ID, mode, account)
        await tx.enter(Scope((tenant_id,), mode))
        for event in events:
            keeping.publish(tx, await erasure.after_moving(tx, event))
    log.info(
        "webhooks_released",
        account=account,
        mode=mode,
        tenant_id=str(tenant_id),
        events=len(events),
    )


def _mode(text: str) -> Mode:
    return "live" if text == "live" else "test"
