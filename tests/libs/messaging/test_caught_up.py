"""A job waits until everything is read that its topics held when its process began."""

import asyncio

import pytest
from aiokafka import TopicPartition

from deploy.local.scratch import RunningKafka
from libs.contracts.billing import CreditGranted
from libs.contracts.topics import PARTITIONS
from libs.directory.consume import consumers_of
from libs.ids import new_id
from libs.messaging.broker import Runtime
from libs.messaging.caught_up import CaughtUp, Ends, ends_in_kafka
from libs.messaging.create_topics import create_topics
from libs.messaging.fence import create_fences
from libs.messaging.outbox import emit
from libs.observability.health import Health
from libs.testing.databases import TestDatabase
from tests.libs.messaging.test_exactly_once import credit

FULL, OTHER, EMPTY = (TopicPartition("billing.events", number) for number in range(3))


async def test_it_waits_for_each_partition_and_asks_once(database: TestDatabase) -> None:
    """What comes after the first question is not waited for, nor what was never written."""
    asked, ran = [], []
    ends = {FULL: 7, OTHER: 1, EMPTY: 0}

    async def told() -> Ends:
        asked.append(dict(ends))
        return asked[-1]

    async def work() -> None:
        ran.append(len(asked))

    async with database.open("ledger") as ledger:
        job = CaughtUp(ledger, told).first(work)
        await job()
        ends[FULL] = 900
        for place, offset, done in ((FULL, 6, 0), (OTHER, 1, 0), (FULL, 7, 1), (FULL, 0, 1)):
            async with ledger.transaction() as tx:
                await create_fences(tx, "another", {place: 100})
                await create_fences(tx, "ledger", {place: offset})
                await tx.execute(
                    "update fence set next_offset = $1 where consumer = 'ledger' "
                    "and topic = $2 and partition = $3",
                    offset,
                    place.topic,
                    place.partition,
                )
            await job()
            assert bool(ran) == bool(done)
    assert (len(asked), ran) == (1, [1, 1])


async def test_without_an_answer_it_asks_again(database: TestDatabase) -> None:
    answers: list[Ends | Exception] = [OSError("nobody there"), {}]

    async def told() -> Ends:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with database.open("ledger") as ledger:
        caught_up = CaughtUp(ledger, told)
        with pytest.raises(OSError, match="nobody there"):
            await caught_up.reached()
        assert await caught_up.reached()


@pytest.mark.kafka
async def test_it_is_reached_by_a_consumer_of_kafka(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    await create_topics(kafka_server.bootstrap)
    opened = await database.open_unmanaged("billing")
    relaying = Runtime(opened, kafka_server.bootstrap, Health())
    relaying.add_relay()
    once = ends_in_kafka(kafka_server.bootstrap, ("billing.events", "ledger.commands"))

    async def asking() -> Ends:
        """What Kafka answers: whose topics are new, or who is busy, may be asked again."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await once()
                except TimeoutError:
                    await asyncio.sleep(0.1)

    before = await asking()
    assert len(before) == 2 * PARTITIONS
    async with relaying.running(), asyncio.timeout(60):
        for _ in range(20):
            granted = credit(new_id())
            async with opened.tenant(granted.tenant_id, "test") as tx:
                emit(tx, granted.data, effective_at=granted.effective_at)
        while sum((await asking()).values()) < sum(before.values()) + 20:
            await asyncio.sleep(0.1)
    reading = await database.open_unmanaged("ledger")
    caught_up = CaughtUp(reading, asking)
    assert not await caught_up.reached()

    async def apply(*_: object) -> None:
        """Nothing is made of it."""

    runtime = Runtime(reading, kafka_server.bootstrap, Health())
    handlers = {CreditGranted: apply}
    runtime.add_consumers(consumers_of(reading, kafka_server.bootstrap, handlers, parks=True))
    async with runtime.running(), asyncio.timeout(60):
        while not await caught_up.reached():
            await asyncio.sleep(0.1)
