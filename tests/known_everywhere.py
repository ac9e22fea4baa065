"""A key that was made a moment ago is known to every service.

A service gives a key that it does not know two seconds to arrive, then refuses it. On a busy machine it
may take longer, so whoever asks once and without patience waits until everybody has heard of it.
"""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from cli import proof
from cli.api import Api

KNOWN_WITHIN_SECONDS = 60


async def known_everywhere(environment: Mapping[str, str], operator: Api) -> None:
    """Wait until every service has read what the operator has just changed of a tenant."""
    assert operator.version is not None, "the operator has changed something"
    tenant_id, _, version = operator.version.partition(":")
    admin = await proof.connect(environment)
    try:
        async with asyncio.timeout(KNOWN_WITHIN_SECONDS):
            for schema in await proof.schemas(admin):
                while not await admin.fetchval(
                    f"select exists (select from {schema}.directory "
                    "where tenant_id = $1 and version >= $2)",
                    UUID(tenant_id),
                    int(version),
                ):
                    await asyncio.sleep(0.05)
    finally:
        await admin.close()
