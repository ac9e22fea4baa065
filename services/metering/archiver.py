"""The program that archives: `python -m services.metering.archiver` writes what is due, and ends.

Metering starts it with its own environment. It gives way to those who answer requests.
"""

import asyncio
import os
import sys
from datetime import timedelta

import structlog

from libs.db.pool import open_database
from libs.observability.logging import configure_logging
from libs.settings import load
from services.metering import archiving
from services.metering.admission import admission_since
from services.metering.producers import ProducerKeys
from services.metering.settings import Settings
from services.metering.usage_reader import UsageReader

log = structlog.get_logger()

NICENESS = 10
CONNECTIONS_MAX = 2


async def archive(settings: Settings) -> None:
    """Archive what is due of every partition.

    Raises:
        Exception: a failure, when every partition has had its turn.
    """
    admission = admission_since(
        settings.signed_since, ProducerKeys.under(settings.key_pepper_bytes)
    )
    database = await open_database(
        settings.postgres_dsn, settings.service, max_connections=CONNECTIONS_MAX
    )
    try:
        await archiving.archive_usage(
            database,
            UsageReader(settings.kafka),
            settings.archive,
            timedelta(seconds=settings.archive_every_seconds),
            admission,
        )
    finally:
        await database.close()


def main() -> int:
    """Archive, and say how that ended."""
    found = load(Settings)
    configure_logging(found.service, found.log_level)
    os.nice(NICENESS)
    try:
        asyncio.run(archive(found))
    except archiving.HINDERED as error:
        log.warning("archiving_hindered", error=f"{type(error).__name__}: {error}"[:200])
        return archiving.HINDERED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
