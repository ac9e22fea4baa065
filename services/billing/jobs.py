"""Timed work of billing, each a bounded `run_once`."""

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.db.tenant import Mode
from services.billing import credit_expiry, plans

EXPIRING_TENANTS_MAX = 100
MODES: tuple[Mode, ...] = ("test", "live")


async def ensure_free_plans(database: Database) -> None:
    """The `free` plan that every tenant begins on exists in both modes."""
    for mode in MODES:
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            await plans.ensure_free_plan(tx, utc_now())


async def expire_credits(database: Database) -> None:
    """Let credit expire whose time is up by its tenant's clock."""
    await credit_expiry.expire_due(database, limit=EXPIRING_TENANTS_MAX)
