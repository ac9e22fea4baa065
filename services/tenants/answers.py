"""The header that lets a caller read elsewhere what it has just written here."""

from uuid import UUID

from fastapi.responses import Response

from libs.db.pool import Database
from services.tenants import store_tenants

VERSION_HEADER = "Sluice-Version"


async def stamp(response: Response, database: Database, tenant_id: UUID) -> None:
    """Put `Sluice-Version: <tenant>:<version>` on the answer to a write.

    A service given it waits until its directory has this version of the tenant's record.
    """
    async with database.tenant(tenant_id, None) as tx:
        row = await store_tenants.find_tenant(tx, "test")
    if row is not None:
        response.headers[VERSION_HEADER] = f"{tenant_id}:{row['version']}"
