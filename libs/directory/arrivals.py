"""Which version of a tenant's record has arrived last in this process, for what remembers older ones.

What is remembered is at most a second old anyway; where its newer version was taken in by this very
process, nothing of the old one is used any more from that commit on. Other processes of the service
look again within their second.
"""

from collections import OrderedDict
from uuid import UUID

TENANTS_MAX = 10_000
"""Beyond, the one that changed longest ago is forgotten: what was remembered of it is as old as ever."""


class Arrivals:
    """The versions that were committed last, by service and tenant."""

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max = tenants_max
        self._versions: OrderedDict[tuple[str, UUID], int] = OrderedDict()

    def note(self, service: str, tenant_id: UUID, version: int) -> None:
        """A version was committed."""
        known = self._versions.pop((service, tenant_id), 0)
        self._versions[service, tenant_id] = max(known, version)
        if len(self._versions) > self._tenants_max:
            self._versions.popitem(last=False)

    def is_newest(self, service: str, tenant_id: UUID, version: int) -> bool:
        """Whether no later version is known to have been committed."""
        return version >= self._versions.get((service, tenant_id), 0)


RECORDS = Arrivals()
"""Of `tenants.directory`."""

SECRETS = Arrivals()
"""Of `tenants.secrets`."""
