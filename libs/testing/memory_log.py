"""A log in memory in place of Kafka: the same outbox, fence, inbox and handlers, no network.

log = MemoryLog()
log.add(database, handlers, parks=True)      # a service's consumers and outbox
await log.publish("tenants.events", envelope)
await log.settle()                           # until nothing moves any more
await log.replay(clear_inboxes=True)         # everything again, from offset 0
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition

from libs.clock import utc_now
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.topics import TOPIC_OF
from libs.db.pool import Database, Row
from libs.directory.consume import consumers_of
from libs.messaging.apply import BatchHandler, Handler
from libs.messaging.consume import Consumer
from libs.messaging.fence import create_fences
from libs.messaging.outbox import SHARDS
from libs.messaging.records import TYPE_HEADER, Record
from libs.messaging.relay import number_rows, stamp
from libs.observability.tracing import inject

ROUNDS_MAX = 200


class MemoryLog:
    """Topics of one partition each, and the services that write and read them."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = defaultdict(list)
        self._services: list[tuple[Database, list[Consumer]]] = []

    def add(
        self,
        database: Database,
        handlers: Mapping[type[Fact], Handler],
        *,
        batch_handlers: Mapping[str, BatchHandler] | None = None,
        parks: bool = True,
    ) -> list[Consumer]:
        """Attach a service: its consumers read this log and its outbox feeds it."""
        consumers = consumers_of(
            database, "memory", handlers, batch_handlers=batch_handlers, parks=parks
        )
        self._services.append((database, consumers))
        return consumers

    def consumers(self, database: Database) -> list[Consumer]:
        """The consumers of a service attached to this log."""
        return next(found for attached, found in self._services if attached is database)

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
        *,
        at: datetime | None = None,
    ) -> Record:
        """Put raw bytes on a topic, as a stranger could."""
        log = self.topics[topic]
        record = Record(topic, 0, len(log), at or utc_now(), key, value, headers)
        log.append(record)
        return record

    def publish(self, event: Envelope[Any]) -> Record:
        """Put an event on its topic, as another service's relay would."""
        return self.append(
            TOPIC_OF[type(event.data)].name,
            str(event.tenant_id).encode(),
            event.model_dump_json().encode(),
            (
                (TYPE_HEADER, event.type.encode()),
                *((name, text.encode()) for name, text in inject().items()),
            ),
        )

    async def settle(self) -> None:
        """Relay and deliver until nothing moves.

        Raises:
            AssertionError: it does not come to rest: two services answer each other for ever.
        """
        for _ in range(ROUNDS_MAX):
            moved = 0
            for database, consumers in self._services:
                moved += await self._relay(database)
                for consumer in consumers:
                    moved += await self._deliver(consumer, database)
            if not moved:
                return
        raise AssertionError(f"still moving after {ROUNDS_MAX} rounds")

    async def replay(self, *, clear_inboxes: bool) -> None:
        """Move every fence back to 0 (and forget the inboxes), then deliver everything again."""
        for database, consumers in self._services:
            async with database.transaction() as tx:
                await tx.execute("update fence set next_offset = 0, last_record_digest = null")
                if clear_inboxes:
                    await tx.execute("delete from inbox")
            for consumer in consumers:
                consumer.places.positions.clear()
        await self.settle()

    def events(self, kind: type[Fact]) -> list[Envelope[Any]]:
        """Every event of a type on the log, in order."""
        found = []
        for record in self.topics[TOPIC_OF[kind].name]:
            if record.header(TYPE_HEADER) == kind.__name__ and record.value is not None:
                found.append(Envelope[kind].model_validate_json(record.value))  # type: ignore[valid-type]
        return found

    async def _relay(self, database: Database) -> int:
        async with database.maintenance() as tx:
            waiting = await number_rows(tx.connection, range(SHARDS))
            for row in _latest_tenant_first(waiting):
                self.append(
                    row["topic"],
                    str(row["tenant_id"]).encode(),
                    stamp(row["payload"], row["stream_seq"]),
                    (
                        (TYPE_HEADER, row["event_type"].encode()),
                        *((name, text.encode()) for name, text in row["headers"].items()),
                    ),
                )
            if waiting:
                await tx.execute(
                    "update outbox set sent_at = now() where id = any($1::bigint[])",
                    [row["id"] for row in waiting],
                )
        return len(waiting)

    async def _deliver(self, consumer: Consumer, database: Database) -> int:
        moved = 0
        for topic in consumer.topics:
            place = TopicPartition(topic, 0)
            if place not in consumer.places.positions:
                async with database.transaction() as tx:
                    await create_fences(tx, consumer.name, {place: 0})
                    consumer.places.positions[place] = await tx.fetchval(
                        "select next_offset from fence where consumer = $1 and topic = $2 "
                        "and partition = 0",
                        consumer.name,
                        topic,
                    )
            start = consumer.places.positions[place]
            batch = self.topics[topic][start : start + 500]
            if batch:
                await consumer.take(batch)
                moved += consumer.places.positions[place] - start
        return moved


def _latest_tenant_first(rows: list[Row]) -> list[Row]:
    """Each tenant's rows as they were written, and the tenant that wrote first last.

    Nothing orders the events of two tenants: in Kafka it is their ids, drawn at random, that decide. A
    test that expects the order in which two of them wrote is to fail whenever it runs, not now and then.
    """
    firsts: dict[UUID, int] = {}
    for row in rows:
        firsts[row["tenant_id"]] = min(row["id"], firsts.get(row["tenant_id"], row["id"]))
    return sorted(rows, key=lambda row: (-firsts[row["tenant_id"]], row["id"]))


EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""A fixed first moment for stories."""
