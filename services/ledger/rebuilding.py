"""Rebuilding a tenant's books from their topics, beside the live ones, and comparing both.

The same handlers read the same topics in a shadow of the schema; then both are compared, as of one
moment: a snapshot of the live books and the fences that stand in it.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.ledger import Book, RecognizeRevenue
from libs.db.pool import Database, Tx, open_database
from libs.db.tenant import Mode, Scope
from libs.messaging.apply import (
    BOTH_BOOKS,
    Applier,
    ConsumerStoppedError,
    Delivery,
    Handler,
    Together,
)
from libs.messaging.records import TYPE_HEADER, Record
from libs.messaging.topic_reader import RecordsGoneError, TopicReader
from libs.observability.metrics import LEDGER_REBUILD_DIFFERENCES
from services.ledger import store_rebuilds as store
from services.ledger import store_shadow
from services.ledger.store_rebuilds import COMPARE_SECONDS, COMPARED, Run
from services.ledger.store_shadow import SHADOW, ShadowTx

log = structlog.get_logger()

COMMANDS = "ledger.commands"
TOPICS = ("tenants.events", "billing.events", "payments.events", COMMANDS)
"""Everything that books are made of; all four are kept for ever."""

BOOKED_WHEN_READ = frozenset({RecognizeRevenue.__name__})
"""Commands that are booked when they are read; all others with the very commit that tells them."""

BOOKS: tuple[Book, ...] = ("platform", "tenant")
BATCH_RECORDS = 1_000
FAULTS_MAX = 50
ATTEMPTS_MAX = 3
LEFT_AFTER = timedelta(seconds=COMPARE_SECONDS + 60)
"""A run whose worker has said nothing for so long is begun again."""


class IncompleteError(RuntimeError):
    """The books cannot be made anew of what there is; the message says why."""


@dataclass
class Rebuild:
    """One run at work.

    Attributes:
        handlers: of the service's consumer: whatever books, books here.
        positions: by topic, the offset before which everything is booked anew.
        batches: that were booked so far.
    """

    run: Run
    database: Database
    reader: TopicReader
    handlers: Mapping[type[Fact], Handler]
    read: int = 0
    expected: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    batches: int = 0

    async def work(self, shadow: "Shadow") -> dict[str, Any]:
        """Book everything anew and compare; what was found."""
        self.partition = self.reader.partition_of(self.run.tenant_id)
        handlers = {fact: _only(self.run.mode, take) for fact, take in self.handlers.items()}
        self.applier = Applier(f"{self.database.service}.rebuild", handlers, parks=False)
        async with self.database.transaction() as tx:
            targets = await store.live_fences(tx, TOPICS, self.partition)
        await self._begin()
        self.expected = sum(targets.values())
        for topic, end in targets.items():
            while self.positions[topic] < end:
                mine = self._mine(await self._next(topic, end))
                for start in range(0, len(mine), BATCH_RECORDS):
                    async with shadow.transaction() as tx:
                        await self._book(tx, mine[start : start + BATCH_RECORDS])
                await self._tell()
        async with shadow.transaction(isolation="repeatable_read") as tx:
            return await self._compare(tx)

    @property
    def _scope(self) -> Scope:
        return Scope((self.run.tenant_id,), self.run.mode, BOTH_BOOKS)

    async def _begin(self) -> None:
        """Begin where the topics do.

        Raises:
            IncompleteError: that is not where the books began.
        """
        found = await self.reader.bounds(TOPICS, [self.partition])
        bounds = {place.topic: each for place, each in found.items()}
        for topic, each in bounds.items():
            if each.begin > 0:
                raise IncompleteError(
                    f"{topic}[{self.partition}] begins at {each.begin}: what was before is gone"
                )
        self.positions = dict.fromkeys(TOPICS, 0)

    async def _next(self, topic: str, end: int) -> list[Record]:
        """The next records of the topic, of any tenant; the position moves behind them."""
        first = self.positions[topic]
        records = await self.reader.read(topic, self.partition, first, end)
        if not records:
            raise IncompleteError(f"{topic}[{self.partition}] gives nothing from {first} to {end}")
        self.positions[topic] = records[-1].offset + 1
        self.read += len(records)
        return records

    def _mine(self, records: Iterable[Record]) -> list[Record]:
        """The tenant's records, of both modes: their streams are numbered together."""
        key = str(self.run.tenant_id).encode()
        return [record for record in records if record.key == key]

    async def _book(self, tx: Tx, records: list[Record]) -> None:
        """Book records as the consumer does. What cannot be booked is put aside, as it is there.

        Raises:
            IncompleteError: too much in a row cannot.
        """
        try:
            await self.applier.apply(tx, records)
        except ConsumerStoppedError as error:
            raise IncompleteError(f"event after event cannot be booked: {error}") from None
        self.batches += 1
        if self.batches & (self.batches - 1) == 0:
            await store_shadow.count_rows(tx)

    async def _tell(self) -> None:
        """Say how far the run is, and that its worker is at it."""
        expected = max(self.expected, self.read)
        await store.note(self.database, self.run, self.read, expected, utc_now())

    async def _compare(self, tx: Tx) -> dict[str, Any]:
        """Book what came since, in the transaction that sees the live books, and compare.

        Raises:
            IncompleteError: the live books wait for something.
        """
        await tx.enter(self._scope)
        parked = await store.live_parked(tx, TOPICS)
        if parked is not None:
            raise IncompleteError(
                f"events of the tenant on {parked} are parked, so the live books lack them: "
                "release the key first"
            )
        for topic, end in (await store.live_fences(tx, TOPICS, self.partition)).items():
            while self.positions[topic] < end:
                await self._book(tx, self._mine(await self._next(topic, end)))
                await tx.enter(self._scope)
        await self._book(tx, await self._told(tx))
        await tx.enter(self._scope)
        await store_shadow.count_rows(tx)
        compared, faults = {}, []
        for table in COMPARED:
            compared[table] = await store.compare(tx, self.run, table)
            await self._tell()
        for book in BOOKS:
            faults += await self._faults_of(tx, book, self.database.service)
            rebuilt = await self._faults_of(tx, book, SHADOW)
            faults += [f"rebuilt: {fault}" for fault in rebuilt]
        entries = compared["journal_entry"]
        return {
            "compared": compared,
            "faults": faults,
            "other_versions": entries.pop("other_versions"),
            "other_contents": entries.pop("other_contents"),
            "set_aside": await store.set_aside(tx),
        }

    async def _faults_of(self, tx: Tx, book: Book, schema: str) -> list[str]:
        """What does not hold within one book, whatever the other says."""
        faults = await store.faults_of_accounts(tx, self.run, book, schema)
        last = 0
        while True:
            await self._tell()
            after = last
            last, broken = await store.check_links(tx, self.run, book, schema, after)
            faults += [f"{book} entry {seq}: it does not fit the chain" for seq in broken]
            if not last:
                break
        if after != await store.last_link(tx, self.run, book, schema):
            faults.append(f"{book}: the chain ends at entry {after}, not where its head is")
        return faults[:FAULTS_MAX]

    async def _told(self, tx: Tx) -> list[Record]:
        """Commands that are booked live and may not be on the topic yet."""
        key = str(self.run.tenant_id).encode()
        return [
            Record(
                COMMANDS,
                self.partition,
                -1 - number,
                row["created_at"],
                key,
                row["payload"].encode(),
                ((TYPE_HEADER, row["event_type"].encode()),),
            )
            for number, row in enumerate(await store.live_commands(tx, COMMANDS))
            if row["event_type"] not in BOOKED_WHEN_READ
        ]


def _only(mode: Mode, take: Handler) -> Handler:
    """The same for events of one mode; those of the other are passed over."""
    if isinstance(take, Together):
        together = take.work

        async def take_together(deliveries: Sequence[Delivery], tx: Tx) -> None:
            if tx.mode == mode:
                await together(deliveries, tx)

        return Together(take_together)

    async def take_one(event: Envelope[Any], tx: Tx) -> None:
        if event.mode == mode:
            await take(event, tx)

    return take_one


@dataclass(frozen=True)
class Shadow:
    """A connection whose tables are its own; never given back to anybody."""

    connection: Any
    service: str
    functions: Any

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncGenerator[Tx, None]:
        """A transaction on it; nothing of what is emitted in it is sent."""
        async with self.connection.transaction(**options):
            yield ShadowTx(self.connection, self.service, functions=self.functions)


@asynccontextmanager
async def open_shadow(dsn: str, service: str) -> AsyncGenerator[Shadow, None]:
    """A shadow of the service's schema, empty."""
    apart = await open_database(dsn, service, max_connections=1)
    try:
        async with apart.pool.acquire(timeout=5) as connection:
            async with connection.transaction():
                functions = await store_shadow.make_shadow(
                    Tx(connection, service), statement_seconds=COMPARE_SECONDS
                )
            try:
                yield Shadow(connection, service, functions)
            finally:
                connection.terminate()
    finally:
        apart.pool.terminate()


async def rebuild_next(
    database: Database, reader: TopicReader, handlers: Mapping[type[Fact], Handler], dsn: str
) -> None:
    """Work on one run to its end, where one waits."""
    now = utc_now()
    run = await store.claim(database, now, now - LEFT_AFTER)
    if run is None:
        return
    if run.attempts > ATTEMPTS_MAX:
        log.error("ledger_rebuild_given_up", run=str(run.id))
        error = f"it was begun {ATTEMPTS_MAX} times and never came to its end; the log says why"
        await store.end(database, run, "failed", now, error=error)
        return
    rebuild = Rebuild(run, database, reader, handlers)
    try:
        async with open_shadow(dsn, database.service) as shadow:
            found = await rebuild.work(shadow)
    except (IncompleteError, RecordsGoneError) as error:
        log.warning("ledger_rebuild_failed", run=str(run.id), error=str(error))
        await store.end(database, run, "failed", utc_now(), error=str(error))
        return
    await store.note(database, run, rebuild.read, rebuild.read, utc_now())
    rows = sum(each["only_live"] + each["only_rebuilt"] for each in found["compared"].values())
    differences = rows + len(found["faults"])
    if differences:
        log.error("ledger_rebuild_differs", run=str(run.id), differences=differences)
    state = "different" if differences else "equal"
    await store.end(database, run, state, utc_now(), found=found)
    await measure(database)


async def measure(database: Database) -> None:
    """Show in how many places the latest comparisons of all books differ.

    What is kept says so, not the process that compared: another tenant's run, or a restart, is no reason
    to forget a difference.
    """
    async with database.maintenance() as tx:
        LEDGER_REBUILD_DIFFERENCES.set(await store.count_differences(tx))
