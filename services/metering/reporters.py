"""Who reports usage: the platform's staff and services with an operator's key, or the tenant itself.

Both report under the tenant, who may be billed by it. So what the platform reports is marked, and the
tenant cannot correct it.
"""

from datetime import UTC, datetime

from libs.db.pool import Tx
from libs.web.auth import Access
from services.metering import store_usage

NEVER = datetime.max.replace(tzinfo=UTC)

REPORTED_BY_PLATFORM = "reported_by_platform"
"""Why a tenant cannot correct an event, or end a reservation: the platform reported or held it."""

CORRECTION_REFUSED = "usage_correction_refused"
"""The security event of whoever tries."""


async def marked_since(tx: Tx, access: Access) -> datetime:
    """From when on what this caller reports is marked as the platform's; never, if it is the tenant's."""
    return await store_usage.marked_since(tx) if access.caller.operator else NEVER
