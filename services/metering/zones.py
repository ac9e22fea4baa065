"""By whose clocks a tenant's days and months begin."""

from datetime import tzinfo

from libs.clock import zone_named
from libs.contracts.configuration import MeteringConfiguration
from libs.directory.configuration import effective
from libs.directory.local import Directory, Tenant


async def zone_name_of(directory: Directory, tenant: Tenant) -> str:
    """The tenant's `time_zone`; nearly all have nothing set."""
    namespace = MeteringConfiguration.namespace
    platform = await directory.platform()
    if not any(each and each.config(namespace) for each in (platform, tenant)):
        return MeteringConfiguration().time_zone
    return (await effective(directory, tenant, MeteringConfiguration)).time_zone


async def zone_of(directory: Directory, tenant: Tenant) -> tzinfo:
    """The tenant's time zone: by its clocks a limit without a period is of a calendar month."""
    return zone_named(await zone_name_of(directory, tenant))
