"""The platform's share of payments through Connect: configuration, copied to where it is charged.

What an operator sets for a tenant (namespace `fees`) holds over what the platform has set for all. It is
copied to the tenant's connections when it changes and when a connection begins, and is told with them;
a change of the platform's own is copied by a job.
"""

from datetime import datetime

from libs.clock import utc_now
from libs.contracts.configuration import FeesConfiguration
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.directory.configuration import merged
from services.tenants import snapshot, store_configuration, store_tenants
from services.tenants import store_connections as store

NAMESPACE = FeesConfiguration.namespace
BATCH = 50


async def copy(tx: Tx, at: datetime) -> bool:
    """Copy what holds for the tenant in scope to its connections; whether anything changed.

    The caller has locked the tenant and publishes its record.
    """
    here = tx.scope
    own = await store_configuration.find_current(tx, NAMESPACE)
    await tx.enter(Scope((PLATFORM_TENANT_ID,), None))
    platform = await store_configuration.find_current(tx, NAMESPACE)
    await tx.enter(here)
    holds = merged(FeesConfiguration, *(row["content"] for row in (platform, own) if row))
    return await store.set_fees(
        tx,
        at,
        basis_points=holds.application_fee_basis_points,
        fixed_minor=holds.application_fee_fixed_minor,
        currency=holds.application_fee_currency,
        platform_version=_version(platform),
    )


async def run_once(database: Database) -> None:
    """Copy what the platform has set to connections that do not know it yet, a batch at a time."""
    async with database.tenant(PLATFORM_TENANT_ID, None) as tx:
        version = _version(await store_configuration.find_current(tx, NAMESPACE))
    async with database.maintenance() as tx:
        rows = await store.without_fees_of(tx, version, BATCH)
    for row in rows:
        async with database.tenant(row["tenant_id"], None) as tx:
            await store_tenants.lock_tenant(tx)
            now = utc_now()
            if await copy(tx, now):
                await snapshot.publish(tx, now)


def _version(row: Row | None) -> int:
    return 0 if row is None else int(row["version"])
