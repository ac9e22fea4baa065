"""Timed work of billing, each a bounded `run_once`."""

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.db.tenant import Mode
from services.billing import plans

MODES: tuple[Mode, ...] = ("test", "live")


async def ensure_free_plans(database: Database) -> None:
    """The `free` plan that every tenant begins on exists in both modes."""
    for mode in MODES:
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            await plans.ensure_free_plan(tx, utc_now())
