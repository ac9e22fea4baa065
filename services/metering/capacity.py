"""What the platform sets aside for a tenant with much more usage than others."""

from libs.contracts.configuration import CapacityConfiguration
from libs.directory.configuration import effective
from libs.directory.local import Directory, Tenant


async def spread_of(directory: Directory, tenant: Tenant) -> int:
    """Over how many partitions the tenant's usage is spread; nearly all have nothing set."""
    namespace = CapacityConfiguration.namespace
    platform = await directory.platform()
    if not any(each and each.config(namespace) for each in (platform, tenant)):
        return 1
    return (await effective(directory, tenant, CapacityConfiguration)).usage_partitions
