"""Which events are so old that their ids are forgotten: the archive says it of those it is asked for.

A correction of such an event would be taken for one of an event to come, and change nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from libs.db.pool import Database
from libs.db.tenant import Mode
from services.metering import store_archive, store_usage
from services.metering.archive import DamagedFileError
from services.metering.backfills import find_known
from services.metering.corrections import NOTHING_FORGOTTEN, Forgotten, Name
from services.metering.ingest import Arrival
from services.metering.listening import Listening
from services.metering.window import ids_kept_since

log = structlog.get_logger()

SECONDS_MAX = 10.0
FILES_AT_ONCE = 50

NOT_TOLD = Forgotten(told=False)


@dataclass
class Memory:
    """The archive, asked for one request after the other: a look takes memory.

    Attributes:
        folder: where the archive's files are.
    """

    database: Database
    folder: Path
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self, names: Sequence[Name], mode: Mode, arrival: Arrival) -> Forgotten:
        """What is known of a tenant's events of these names, whose ids are not there."""
        kept_since = ids_kept_since(arrival.received_at.date())
        if not names or all(each.counts_from.date() >= kept_since for each in arrival.meters):
            return NOTHING_FORGOTTEN
        async with self.database.tenant(arrival.tenant_id, mode) as tx:
            files = await store_archive.files_of(tx, arrival.tenant_id)
            marked_since = await store_usage.marked_since(tx)
        old = [each for each in files if each.received_day < kept_since]
        wanted = [(each.source, each.id) for each in names]
        listening = Listening(arrival.tenant_id, tuple(arrival.meters))
        found: set[bytes] = set()
        try:
            async with asyncio.timeout(SECONDS_MAX), self._turn:
                for start in range(0, len(old), FILES_AT_ONCE):
                    found |= await asyncio.to_thread(
                        find_known,
                        self.folder,
                        old[start : start + FILES_AT_ONCE],
                        wanted,
                        listening,
                        marked_since.date(),
                    )
        except (TimeoutError, DamagedFileError) as error:
            log.warning("archive_not_asked", error=type(error).__name__, files=len(old))
            return Forgotten(found, told=False)
        whole = await store_archive.is_whole(self.database, archived_since=kept_since)
        return Forgotten(found, told=whole)
