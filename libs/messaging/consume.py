"""A consumer: FastStream reads batches of raw bytes, Postgres decides what they do.

Two per service, each with a Kafka client of its own: `<service>` for its events and
`<service>.directory` for the directory, so that no backlog delays a revocation. Of the first there may
be several: lanes, members of the group, so that Postgres works for one while Python does for another.
"""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from copy import copy

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from libs.contracts.topics import Topic
from libs.db.pool import Database
from libs.messaging import stops
from libs.messaging.apply import RETRIED, Applier, ConsumerStoppedError
from libs.messaging.drain import drain_released
from libs.messaging.fence import (
    Fence,
    FenceMovedError,
    create_fences,
    find_breaches,
    load_fences,
    move_fences,
)
from libs.messaging.kafka_headers import keep_raw, no_decoding
from libs.messaging.places import Places, place_of, spans_of
from libs.messaging.probe import StuckError, ends_heard
from libs.messaging.records import Reader, Record, Weigh, in_parts
from libs.observability.health import Check
from libs.observability.metrics import (
    BATCH_SECONDS,
    CONSUMER_LAG_RECORDS,
    CONSUMER_STOPPED,
    TRANSIENT_FAILURES_TOTAL,
)

log = structlog.get_logger()

MAX_RECORDS = 500
SESSION_TIMEOUT_MS = 6_000
MAX_POLL_INTERVAL_MS = 300_000
MAX_PAUSE_SECONDS = 15.0
WATCH_SECONDS = 1.0
HINT_PAUSE_SECONDS = 1.0
"""Kafka is told no more often where we stand: only tools that show lag look at it."""
STUCK_SECONDS = 60.0
SILENT_SECONDS = 20.0
"""A client that hears nothing for so long, of a Kafka that answers a new one, hears nothing again."""
READ_AT_ONCE = 20
"""Records that are read between two looks at what else there is to do: half a millisecond. Longer, and
Postgres would wait for the next statement of the batch at work, not that batch for Postgres."""


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer group member: where it stands, what it applies, whether it makes progress."""

    def __init__(
        self,
        applier: Applier,
        *,
        database: Database,
        bootstrap: str,
        topics: Sequence[Topic],
        code_version: str = "0",
        max_records: int = MAX_RECORDS,
        readers: Mapping[str, Reader] | None = None,
        weigh: Weigh | None = None,
        lane: int = 0,
    ) -> None:
        """Set a consumer up.

        Args:
            readers: by topic, what reads a record ahead of its transaction.
            weigh: tells by how much a batch is too much for one transaction; without it none is.
            lane: which one it is of those of this name in this process.
        """
        self.applier = applier
        self.name = applier.name
        self.lane = lane
        self.title = f"{self.name} lane {lane}" if lane else self.name
        self._database = database
        self._bootstrap = bootstrap
        self.topics = [topic.name for topic in topics]
        self._compacted = frozenset(topic.name for topic in topics if topic.cleanup == "compact")
        self.places = Places(self.name, self._compacted)
        self._code_version = code_version
        self._max_records = max_records
        decoded = [topic for topic in self.topics if topic not in applier.batch_handlers]
        self._readers = dict.fromkeys(decoded, applier.read_ahead) | dict(readers or {})
        self._weigh = weigh
        self._at_work: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._place_now = asyncio.Event()
        self._stopped: str | None = None
        self._trouble: str | None = None
        self._watch_trouble: str | None = None
        self._pause_seconds = 0.1
        self._lag_records: dict[str, int] = dict.fromkeys(self.topics, 0)
        self._progress_at = self._hint_at = 0.0
        self._answered_at = 0.0

    @property
    def member(self) -> str:
        """Its name in the group, whose first lane is the member that a process without lanes is.

        Partitions go round by the order of names: every process's first lane comes before any other,
        so that none goes without because another one has more lanes.
        """
        lane = f".{self.lane}" if self.lane else ""
        return f"{self.name}{lane}-{os.environ.get('SLUICE_SLOT', '0')}"

    def subscribe(self, broker: KafkaBroker) -> None:
        """Declare the one subscriber of this consumer on its broker."""
        subscriber = broker.subscriber(
            *self.topics,
            batch=True,
            group_id=self.name,
            group_instance_id=self.member,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            max_records=self._max_records,
            batch_timeout_ms=100,
            fetch_max_wait_ms=200,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=2_000,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            partition_assignment_strategy=[RangePartitionAssignor],
            listener=self,
            parser=keep_raw,
            decoder=no_decoding,
        )

        async def take(message: KafkaMessage) -> None:
            # FastStream holds on to its own until the collector comes: what is read of them is not for it.
            await self.deliver([copy(record) for record in message.raw_message])

        subscriber(take)
        self._subscriber = subscriber

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """These partitions are somebody else's now; what is in hand for them is dropped."""
        self.places.revoke(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Hold new partitions still until their fences are read and checked."""
        self.places.assign(self._subscriber.consumer, assigned)
        self._place_now.set()

    async def watch(self) -> None:
        """Place new partitions, drain released keys, measure lag; until cancelled.

        Raises:
            StuckError: lag without progress for 60 seconds, or a client that has lost Kafka.
        """
        loop = asyncio.get_running_loop()
        self._progress_at = self._answered_at = loop.time()
        while True:
            try:
                if self.places.assigned is not None:
                    await self._load_stop()
                    await self._place()
                    await self._follow_fences()
                    await self.drain()
                    async with self._lock:
                        await self.places.hint(self.places.unhinted())
                    await self._measure_lag(loop.time())
                    self._watch_trouble = None
            except (KafkaError, *RETRIED) as error:
                self._watch_trouble = f"{type(error).__name__}: {error}"[:200]
                log.warning("consumer_trouble", consumer=self.name, error=self._watch_trouble)
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._place_now.wait()
                self._place_now.clear()
            except TimeoutError:
                continue

    async def deliver(self, records: Sequence[Record]) -> None:
        """Read a batch while the one before is at work in Postgres, then set it to work.

        At most one is at work and one is read ahead. When the client is put back meanwhile, what it
        had handed out is thrown away: it will be handed out again, in order.
        """
        rewinds = self.places.rewinds
        try:
            await self._read_ahead(records)
            await self._at_rest()
        except Exception:
            # Else the next batch would follow, and these records would be read past.
            self.places.put_back(records)
            raise
        if self.places.rewinds == rewinds:
            work = self._take_in_parts(records, rewinds)
            self._at_work = asyncio.create_task(work, name=f"batch {self.title}")
        else:
            self.places.put_back(records)

    async def _at_rest(self) -> None:
        """Wait until no batch is at work."""
        if self._at_work is not None:
            await asyncio.wait({self._at_work})
            at_work, self._at_work = self._at_work, None
            at_work.result()

    async def end(self) -> None:
        """Let the batch at work come to its end; cancelled, it is rolled back."""
        while (at_work := self._at_work) is not None:
            try:
                await asyncio.wait({at_work})
            finally:
                at_work.cancel()
                # A delivery that waited for it may have set the next one to work.
                if self._at_work is at_work:
                    self._at_work = None

    async def _read_ahead(self, records: Sequence[Record]) -> None:
        """Let each topic's reader read, a stretch at a time: the batch at work must not wait."""
        for number, record in enumerate(records):
            reader = self._readers.get(record.topic)
            if reader is None:
                continue
            record.prepare(reader)
            if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)

    async def _take_in_parts(self, records: Sequence[Record], rewinds: int) -> None:
        """Apply a batch, what is too much for one transaction in several; see `take`."""
        for part in in_parts(records, self._weigh):
            await self.take(part, rewinds=rewinds)

    async def take(self, records: Sequence[Record], *, rewinds: int | None = None) -> None:
        """Apply a delivered batch, or put the client back to the fence and wait a little.

        Args:
            rewinds: how often the client had been put back when it handed the batch out.
        """
        async with self._lock:
            if rewinds not in (None, self.places.rewinds):
                # A rewind of its own: the batch behind it may have been handed out after the other.
                self.places.rewind(records)
                return
            if self.places.doubt(records):
                self._place_now.set()
            mine = self.places.flowing(records)
            if not mine:
                return
            if self._stopped is not None:
                self.places.rewind(mine)
                await asyncio.sleep(1)
                return
            try:
                with BATCH_SECONDS.time():
                    await self._commit_batch(mine)
                self._pause_seconds, self._trouble = 0.1, None
            except FenceMovedError as moved:
                self.places.go_back(moved.fence)
                self.places.rewind(mine)
            except ConsumerStoppedError as stopped:
                self.places.rewind(mine)
                await self._stop(str(stopped))
            except Exception as error:
                # Whatever it was: a batch that is left here would be read past.
                self._trouble = f"{type(error).__name__}: {error}"[:200]
                TRANSIENT_FAILURES_TOTAL.labels(error=type(error).__name__).inc()
                log.warning(
                    "batch_failed",
                    consumer=self.name,
                    error=self._trouble,
                    retry_in_seconds=self._pause_seconds,
                    exc_info=not isinstance(error, (*RETRIED, KafkaError)),
                )
                self.places.rewind(mine)
                await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311
                self._pause_seconds = min(self._pause_seconds * 2, MAX_PAUSE_SECONDS)

    async def _commit_batch(self, records: Sequence[Record]) -> None:
        """Apply a batch, or nothing of it; then go on behind it."""
        stood = {place: self.places.positions[place] for place in spans_of(records)}
        strikes = self.applier.strikes
        try:
            await self._apply_batch(records, stood)
        except BaseException:
            # What was put aside was rolled back: tried again, it must not count twice.
            self.applier.strikes = strikes
            raise
        self.places.go_on_behind(records)
        self._progress_at = now = asyncio.get_running_loop().time()
        if now >= self._hint_at:
            self._hint_at = now + HINT_PAUSE_SECONDS
            await self.places.hint(self.places.unhinted())

    async def _apply_batch(
        self, records: Sequence[Record], stood: Mapping[TopicPartition, int]
    ) -> None:
        """One transaction: fences locked and compared, records applied, fences moved."""
        async with self._database.transaction() as tx:
            fences = await load_fences(tx, self.name, stood, lock=True)
            for place, fence in fences.items():
                if fence.next_offset < stood[place]:
                    raise FenceMovedError(fence)
            spans = spans_of(records)
            fresh = list(records)
            if any(span.first.offset < fences[place].next_offset for place, span in spans.items()):
                fresh = [r for r in records if r.offset >= fences[place_of(r)].next_offset]
            await self.applier.apply(tx, fresh)
            await move_fences(tx, self.name, [span.last for span in spans_of(fresh).values()])

    async def _place(self) -> None:
        """Read and check the fences of new partitions, then let them flow."""
        if not self.places.unplaced:
            return
        async with self._lock:
            places = set(self.places.unplaced)
            async with self._database.transaction() as tx:
                fences = await load_fences(tx, self.name, places)
            new = [Fence(p.topic, p.partition, 0, None) for p in places if p not in fences]
            known = list(fences.values())
            breaches, begins = await find_breaches(
                self._bootstrap, known + new, compacted=self._compacted
            )
            starts = {fence.place: begins[fence.place] for fence in new}
            if starts:
                async with self._database.transaction() as tx:
                    await create_fences(tx, self.name, starts)
                    fences = await load_fences(tx, self.name, places)
            self.places.settle(
                places & self.places.unplaced, fences, [b for b in breaches if b.fence in known]
            )
            self._trouble = None

    async def drain(self) -> None:
        """Apply the queues of released keys in this worker's partitions."""
        async with self._lock:
            await drain_released(self._database, self.applier, set(self.places.positions))

    async def _follow_fences(self) -> None:
        """Go back where somebody moved a fence back, also on a partition without new records."""
        async with self._lock:
            async with self._database.transaction() as tx:
                fences = await load_fences(tx, self.name, set(self.places.positions))
            for place, fence in fences.items():
                if fence.next_offset < self.places.positions.get(place, 0):
                    self.places.go_back(fence)

    async def _measure_lag(self, now: float) -> None:
        """Ask Kafka how far each log goes; stuck is lag without progress."""
        stood = dict(self.places.positions)
        silent = now - self._answered_at > SILENT_SECONDS
        ends = await ends_heard(self.places.client, set(stood), self._bootstrap, silent=silent)
        self._answered_at = now
        lag = dict.fromkeys(self.topics, 0) | self.places.lag_records(ends, stood)
        for topic, records in lag.items():
            # Lanes beside this one count theirs in as well.
            CONSUMER_LAG_RECORDS.labels(topic=topic).inc(records - self._lag_records[topic])
        self._lag_records, behind = lag, sum(lag.values())
        trouble = self._trouble or self._watch_trouble
        if not behind or self._stopped is not None or trouble is not None:
            self._progress_at = now
        elif now - self._progress_at > STUCK_SECONDS:
            raise StuckError(f"{self.title}: {behind} records behind and no progress")

    async def _stop(self, detail: str) -> None:
        """Stand still, beyond restarts of the same code."""
        log.critical("consumer_stopped", consumer=self.name, detail=detail[:500])
        self._stopped = detail
        CONSUMER_STOPPED.labels(consumer=self.name).set(1)
        await stops.remember(self._database, self.name, detail, self._code_version)

    async def _load_stop(self) -> None:
        """Stopped by this very code, and not lifted since? Then stay stopped."""
        stopped = await stops.standing(self._database, self.name, self._code_version)
        if self._stopped is not None and stopped is None:
            self.applier.strikes = 0
            log.info("consumer_lifted", consumer=self.name)
        self._stopped = stopped
        CONSUMER_STOPPED.labels(consumer=self.name).set(int(stopped is not None))

    def check(self) -> Check:
        """Progress, not a ping: partitions assigned and placed, not refused, not stopped."""
        places, behind = self.places, sum(self._lag_records.values())
        stopped = None if self._stopped is None else f"stopped: {self._stopped[:200]}"
        wrong = places.blocked() or stopped or self._trouble or self._watch_trouble
        # Of more lanes than partitions, those that are not the first may go without.
        if wrong is None and (places.unplaced or not (places.assigned or self.lane)):
            wrong = "waiting for partitions and fences"
        if wrong is not None:
            return Check(ok=False, detail=wrong)
        return Check(ok=True, detail=f"{behind} records behind")
