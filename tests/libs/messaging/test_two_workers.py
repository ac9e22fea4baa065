"""Two replicas of one service on real Kafka: partitions move, a zombie goes on, no effect is double.

Each amount is a power of two, so a sum tells which events took effect; the order in which they did
is kept beside it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from deploy.local.scratch import RunningKafka
from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope
from libs.db.pool import Database, Tx
from libs.directory.consume import consumers_of
from libs.ids import new_id
from libs.messaging.broker import Runtime
from libs.messaging.consume import Consumer
from libs.messaging.create_topics import create_topics
from libs.messaging.outbox import emit
from libs.messaging.records import Record
from libs.observability.health import Health
from libs.testing.databases import TestDatabase
from tests.libs.messaging.test_exactly_once import Sums, credit
from tests.libs.messaging.test_on_kafka import running, until

pytestmark = pytest.mark.kafka

TENANTS = 16
ROUNDS = 40


class Booked:
    """What both replicas did, in the order of its commits: read back from their outboxes."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.handled_by: dict[str, set[UUID]] = defaultdict(set)

    def as_seen_by(self, slot: str) -> Any:
        """The handler of one replica."""

        async def on_credit(event: Envelope[Any], tx: Tx) -> None:
            await self.sums.on_credit(event, tx)
            self.handled_by[slot].add(event.tenant_id)

        return on_credit


class Replica:
    """One worker, and the last batch it was given: a zombie goes on with it."""

    def __init__(self, consumer: Consumer, database: Database) -> None:
        self.consumer, self.database = consumer, database
        self.last_batch: Sequence[Record] = ()
        take = consumer.take

        async def take_and_keep(records: Sequence[Record], *, rewinds: int | None = None) -> None:
            self.last_batch = [*self.last_batch, *records]
            await take(records, rewinds=rewinds)

        consumer.take = take_and_keep  # type: ignore[method-assign]

    @property
    def partitions(self) -> set[int]:
        """The partitions of `billing.events` that it reads."""
        return partitions_of(self.consumer)


def partitions_of(consumer: Consumer) -> set[int]:
    """The partitions of `billing.events` that a consumer reads."""
    return {p.partition for p in consumer.places.positions if p.topic == "billing.events"}


@asynccontextmanager
async def replica(
    database: TestDatabase,
    kafka: str,
    booked: Booked,
    slot: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Replica, None]:
    """A replica of the ledger in a slot of its own."""
    opened = await database.open_unmanaged("ledger")
    consumers = consumers_of(opened, kafka, {CreditGranted: booked.as_seen_by(slot)}, parks=True)
    runtime = Runtime(opened, kafka, Health())
    one = Replica(consumers[0], opened)
    runtime.add_consumers(consumers[:1])
    monkeypatch.setenv("SLUICE_SLOT", slot)
    async with runtime.running():
        await until(lambda: bool(one.partitions))
        yield one


async def grant_rounds(billing: Database, tenants: Sequence[UUID], numbers: range) -> None:
    """Each tenant's credits of these numbers, in turn."""
    for number in numbers:
        for tenant in tenants:
            async with billing.tenant(tenant, "test") as tx:
                emit(tx, credit(tenant, 2**number).data)


async def effects(database: TestDatabase, tenants: Iterable[UUID]) -> dict[UUID, list[UUID]]:
    """The events that took effect, by tenant, in the order of their effects.

    The log holds events of other tests too; they are left out.
    """
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select tenant_id, payload::jsonb -> 'data' ->> 'source_key' as event "
            "from ledger.outbox where tenant_id = any($1::uuid[]) "
            "and event_type = 'JournalEntryPosted' order by id",
            list(tenants),
        )
    found: dict[UUID, list[UUID]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"]].append(UUID(row["event"]))
    return found


async def published(database: TestDatabase) -> dict[UUID, list[UUID]]:
    """The events that billing sent, by tenant, in order."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select tenant_id, event_id from billing.outbox where event_type = 'CreditGranted' "
            "order by id"
        )
    found: dict[UUID, list[UUID]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"]].append(row["event_id"])
    return found


async def until_equal(database: TestDatabase) -> None:
    """Everything sent has had its effect, once and in order."""
    sent = await published(database)
    async with asyncio.timeout(60):
        while sum(len(done) for done in (await effects(database, sent)).values()) < sum(
            len(events) for events in sent.values()
        ):
            await asyncio.sleep(0.1)
    assert await effects(database, sent) == sent


async def test_partitions_move_and_a_zombie_goes_on(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = kafka_server.bootstrap
    await create_topics(kafka)
    booked, tenants = Booked(), [new_id() for _ in range(TENANTS)]
    async with (
        running(database, "billing", kafka, {}) as (billing, _),
        replica(database, kafka, booked, "a", monkeypatch) as first,
    ):
        await grant_rounds(billing, tenants, range(ROUNDS // 4))
        await until_equal(database)
        old_batch = list(first.last_batch)
        assert len(first.partitions) == 12

        async with replica(database, kafka, booked, "b", monkeypatch) as second:
            writing = asyncio.create_task(
                grant_rounds(billing, tenants, range(ROUNDS // 4, ROUNDS // 2))
            )
            await until(lambda: len(first.partitions) == len(second.partitions) == 6)
            assert first.partitions.isdisjoint(second.partitions)
            await writing
            await until_equal(database)
            assert booked.handled_by["b"]

            # A zombie: it still believes in its partitions and goes on with what it had in hand,
            # also with what only the new owner was given, while new records come in.
            zombie = consumers_of(
                first.database, kafka, {CreditGranted: booked.as_seen_by("z")}, parks=True
            )[0]
            writing = asyncio.create_task(
                grant_rounds(billing, tenants, range(ROUNDS // 2, ROUNDS * 3 // 4))
            )
            for batch in (old_batch, list(second.last_batch)) * 3:
                zombie.places.positions = {
                    TopicPartition(record.topic, record.partition): record.offset
                    for record in reversed(batch)
                }
                await zombie.take(batch)
            await writing
            await until_equal(database)

        await grant_rounds(billing, tenants, range(ROUNDS * 3 // 4, ROUNDS))
        await until(lambda: len(first.partitions) == 12)
        await until_equal(database)
        for tenant in tenants:
            assert await booked.sums.sum_of(first.database, tenant) == 2**ROUNDS - 1
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.dead_letter") == 0
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
