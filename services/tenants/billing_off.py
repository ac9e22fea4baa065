"""Billing switched off: the one tenant everything lives under is always active (requirement T6)."""

from libs.clock import utc_now
from libs.db.pool import Database
from services.tenants import store_tenants, tenancy
from services.tenants.settings import Settings


async def run_once(database: Database, settings: Settings) -> None:
    """Hold the default tenant active while billing is off.

    With billing on it follows its subscription like any other.
    """
    wanted = None if settings.stripe_enabled else settings.default_tenant_id
    async with database.maintenance() as tx:
        rows = await store_tenants.held_active(tx, wanted)
    for row in rows:
        is_wanted = wanted is not None and wanted.lower() in (row["slug"], str(row["tenant_id"]))
        if row["always_active"] != is_wanted:
            async with database.tenant(row["tenant_id"], "test") as tx:
                await tenancy.keep_active(tx, is_wanted, utc_now())
