"""Rebuilding a tenant's aggregates from the archive or the topic, beside the live ones.

The same intake counts the same records, in tables of the run's own; then both are compared, as of one
moment: a snapshot of the live tables and the fences that stand in it.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx, open_database
from libs.db.tenant import NOBODY, Scope
from libs.directory.local import Directory
from libs.messaging.apply import BatchHandler
from libs.messaging.records import Record
from libs.messaging.topic_reader import RecordsGoneError
from libs.observability.metrics import USAGE_REBUILD_DIFFERENCES
from services.metering import archive, closing, intake, meters, store_archive
from services.metering import store_rebuilds as store
from services.metering.admission import Admission
from services.metering.archive import DamagedFileError
from services.metering.store_rebuilds import COMPARE_SECONDS, COMPARED, SAMPLES_MAX, Run
from services.metering.usage_reader import UsageReader
from services.metering.window import ids_kept_since

log = structlog.get_logger()

BATCH_RECORDS = 2_000
ATTEMPTS_MAX = 3
LEFT_AFTER = timedelta(seconds=COMPARE_SECONDS + 60)
"""A run whose worker has said nothing for so long is begun again."""


class IncompleteError(RuntimeError):
    """The source does not hold everything that was counted; the message says what is missing."""


@dataclass
class Rebuild:
    """One run at work.

    Attributes:
        positions: by partition, the offset before which everything is counted anew.
        admission: decides about what is on the topic; the archive holds only what was let in.
    """

    run: Run
    database: Database
    reader: UsageReader
    folder: Path
    read: int = 0
    expected: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    admission: Admission | None = None

    async def work(self, shadow: Any, self_customer: UUID) -> dict[str, Any]:
        """Count everything anew and compare; the comparison by table."""
        async with self.database.transaction() as tx:
            targets = await store.live_fences(tx)
        if self.run.source == "archive":
            await self._from_archive(shadow, targets)
        else:
            await self._begin_of_topic()
        await self._from_topic(shadow, targets)
        async with shadow.transaction(isolation="repeatable_read"):
            tx = Tx(shadow, self.database.service)
            await tx.enter(self._scope)
            fences = await store.live_fences(tx)
            await self._count_tail(tx, fences)
            await tx.enter(self._scope)
            return await self._compare(tx, self_customer)

    @property
    def _scope(self) -> Scope:
        return Scope((self.run.tenant_id,), self.run.mode)

    async def _from_archive(self, shadow: Any, targets: dict[int, int]) -> None:
        """Count what is archived; what came in later is still on the topic."""
        begins = {partition: each.begin for partition, each in (await self.reader.bounds()).items()}
        places = await store_archive.list_places(self.database, begins, utc_now())
        lost = sum(place.lost_records for place in places)
        if lost:
            raise IncompleteError(
                f"{lost} records were deleted from the topic before the archiver came"
            )
        for place in places:
            if place.first_offset > 0:
                raise IncompleteError(
                    f"the archive of partition {place.partition} begins at {place.first_offset}: older "
                    "usage is in none"
                )
        async with self.database.tenant(self.run.tenant_id, self.run.mode) as tx:
            files = await store_archive.files_of(tx, self.run.tenant_id)
        self.expected = sum(file.records for file in files)
        for file in files:
            end = targets.get(file.partition, 0)
            records = await asyncio.to_thread(archive.read, self.folder, file)
            archived = [each for each in records if each.offset < end]
            await self._count(shadow, archived, intake.take)
        for place in places:
            target = targets.get(place.partition, 0)
            self.positions[place.partition] = min(place.next_offset, target)

    async def _begin_of_topic(self) -> None:
        """Begin where the topic does.

        Raises:
            IncompleteError: that is not where usage began.
        """
        for partition, bounds in (await self.reader.bounds()).items():
            if bounds.begin > 0:
                raise IncompleteError(
                    f"the topic's partition {partition} begins at {bounds.begin}: older usage is in "
                    "the archive only"
                )
            self.positions[partition] = 0

    async def _from_topic(self, shadow: Any, targets: dict[int, int]) -> None:
        for partition, end in sorted(targets.items()):
            while self.positions.get(partition, 0) < end:
                records = await self._next(partition, end)
                await self._count(shadow, records, self._take_from_topic)

    async def _next(self, partition: int, end: int) -> list[Record]:
        """The next records of the partition, of any tenant; the position moves behind them."""
        first = self.positions.get(partition, 0)
        records = await self.reader.read(partition, first, end)
        if not records:
            raise IncompleteError(f"partition {partition} gives nothing between {first} and {end}")
        self.positions[partition] = records[-1].offset + 1
        return records

    def _mine(self, records: Iterable[Record]) -> list[Record]:
        key = str(self.run.tenant_id).encode()
        return [record for record in records if record.key == key]

    @property
    def _take_from_topic(self) -> BatchHandler:
        return intake.take if self.admission is None else self.admission.take

    async def _count(self, shadow: Any, records: Iterable[Record], take: BatchHandler) -> None:
        """Count records of the tenant in the run's own tables, by the intake itself."""
        mine = self._mine(records)
        for start in range(0, len(mine), BATCH_RECORDS):
            async with shadow.transaction():
                tx = Tx(shadow, self.database.service)
                await self._take(tx, mine[start : start + BATCH_RECORDS], take)
        self.read += len(mine)
        await self._tell()

    async def _take(self, tx: Tx, records: Sequence[Record], take: BatchHandler) -> None:
        """Count records as they were counted: what a day had forgotten is forgotten on that day."""
        for day, of_day in groupby(records, lambda record: record.at.date()):
            await store.forget_ids(tx, ids_kept_since(day))
            await tx.enter(NOBODY)
            await take(list(of_day), tx)

    async def _tell(self) -> None:
        """Say how far the run is, and that its worker is at it."""
        expected = max(self.expected, self.read)
        await store.note(self.database, self.run, self.read, expected, utc_now())

    async def _count_tail(self, tx: Tx, fences: dict[int, int]) -> None:
        """What was counted since, in the transaction that compares."""
        for partition, end in sorted(fences.items()):
            while self.positions.get(partition, 0) < end:
                mine = self._mine(await self._next(partition, end))
                if mine:
                    await self._take(tx, mine, self._take_from_topic)
                    self.read += len(mine)
                await self._tell()

    async def _compare(self, tx: Tx, self_customer: UUID) -> dict[str, Any]:
        await store.count_rows(tx)
        compared = {}
        for table in COMPARED:
            compared[table] = await store.compare(tx, self.run, table)
            await self._tell()
        compared["closure_usage"] = await self._compare_answers(tx, self_customer)
        return compared

    async def _compare_answers(self, tx: Tx, self_customer: UUID) -> dict[str, Any]:
        """The answers given to billing against what the rebuilt aggregates answer."""
        answers = await store.live_answers(tx, self.run)
        known = await meters.applying(tx, [self.run.tenant_id], self.run.mode)
        await tx.enter(self._scope)
        told: list[str] = []
        rebuilt: list[str] = []
        for answer in answers:
            biller = (
                PLATFORM_TENANT_ID if answer["customer_id"] == self_customer else self.run.tenant_id
            )
            meter = next((m for m in known.get(biller, ()) if m.key == answer["meter"]), None)
            if meter is None:
                continue
            found = await closing.quantity_of(tx, meter, answer, self_customer)
            if found != (answer["quantity"], answer["event_count"]):
                what = f"{answer['id']} {answer['meter']}"
                told.append(f"{what} {answer['quantity']} of {answer['event_count']}")
                rebuilt.append(f"{what} {found[0]} of {found[1]}")
        return {
            "live": len(answers),
            "rebuilt": len(answers),
            "only_live": len(told),
            "only_rebuilt": len(rebuilt),
            "live_rows": told[:SAMPLES_MAX],
            "rebuilt_rows": rebuilt[:SAMPLES_MAX],
        }


@asynccontextmanager
async def shadow_connection(dsn: str, service: str) -> AsyncGenerator[Any, None]:
    """A connection on which every table that usage is counted into is the run's own.

    It is never given back to anybody: what it sees would be mistaken for the live tables.
    """
    apart = await open_database(dsn, service, max_connections=1)
    try:
        async with apart.pool.acquire(timeout=5) as connection:
            async with connection.transaction():
                await store.hide_live_tables(Tx(connection, service))
            try:
                yield connection
            finally:
                connection.terminate()
    finally:
        apart.pool.terminate()


async def _self_customer(directory: Directory, run: Run) -> UUID:
    """The customer that is the tenant itself: which meters bill it depends on that."""
    tenant = await directory.by_id(run.tenant_id)
    if tenant is None:
        raise IncompleteError("the tenant is not known any more")
    return tenant.snapshot.self_customer_id


async def rebuild_next(
    database: Database,
    reader: UsageReader,
    folder: Path,
    dsn: str,
    directory: Directory,
    admission: Admission | None = None,
) -> None:
    """Work on one run to its end, where one waits."""
    now = utc_now()
    run = await store.claim(database, now, now - LEFT_AFTER)
    if run is None:
        return
    if run.attempts > ATTEMPTS_MAX:
        log.error("usage_rebuild_given_up", run=str(run.id))
        error = f"it was begun {ATTEMPTS_MAX} times and never came to its end; the log says why"
        await store.end(database, run, "failed", now, error=error)
        return
    rebuild = Rebuild(run, database, reader, folder, admission=admission)
    try:
        self_customer = await _self_customer(directory, run)
        async with shadow_connection(dsn, database.service) as shadow:
            compared = await rebuild.work(shadow, self_customer)
    except (DamagedFileError, IncompleteError, RecordsGoneError) as error:
        log.warning("usage_rebuild_failed", run=str(run.id), error=str(error))
        await store.end(database, run, "failed", utc_now(), error=str(error))
        return
    await store.note(database, run, rebuild.read, rebuild.read, utc_now())
    differences = sum(each["only_live"] + each["only_rebuilt"] for each in compared.values())
    USAGE_REBUILD_DIFFERENCES.set(differences)
    if differences:
        log.error("usage_rebuild_differs", run=str(run.id), rows=differences)
    state = "different" if differences else "equal"
    await store.end(database, run, state, utc_now(), compared=compared)
