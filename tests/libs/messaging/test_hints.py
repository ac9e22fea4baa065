"""What Kafka is told of where a consumer stands: not after each batch, and in the end all of it."""

from collections.abc import AsyncGenerator, Mapping

import pytest
from aiokafka import TopicPartition

from libs.contracts.billing import CreditGranted
from libs.db.pool import Database
from libs.messaging import consume
from libs.messaging.fence import Fence
from libs.messaging.places import Places
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, Sums, credit

EVENTS = TopicPartition("billing.events", 0)


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


class Client:
    """Kafka's client, which is told where the consumer stands."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def pause(self, *_: TopicPartition) -> None:
        """Nothing is read."""

    seek = resume = pause

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Take a hint."""
        self.told.append(offsets[EVENTS])


async def test_kafka_is_told_seldom_and_in_the_end_all_of_it(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "HINT_PAUSE_SECONDS", 3600)
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    await log.settle()
    client = Client()
    consumer.places.client = client
    for amount_minor in (1, 2, 4):
        await consumer.take([log.publish(credit(ACME, amount_minor))])
    assert await sums.sum_of(ledger, ACME) == 7
    assert client.told == [1]
    assert consumer.places.unhinted() == {EVENTS}
    await consumer.places.hint(consumer.places.unhinted())
    assert client.told == [1, 3]
    assert consumer.places.unhinted() == set()


async def test_who_takes_over_tells_what_the_one_before_had_no_time_to() -> None:
    client = Client()
    places = Places("ledger", frozenset())
    for stood in (0, 3, 3):
        places.assign(client, {EVENTS})
        places.settle({EVENTS}, {EVENTS: Fence(EVENTS.topic, EVENTS.partition, stood, None)}, [])
        assert places.unhinted() == ({EVENTS} if stood else set())
        await places.hint(places.unhinted())
        assert places.unhinted() == set()
    assert client.told == [3, 3], "another may have told Kafka something else meanwhile"
