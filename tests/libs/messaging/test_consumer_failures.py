"""A consumer whose batches fail, do not follow, or come after a rebalance."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from libs.clock import utc_now
from libs.contracts.billing import CreditGranted, InvoicePaid
from libs.contracts.envelope import Envelope, wrap
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging.apply import TransientError
from libs.messaging.consume import SILENT_SECONDS
from libs.messaging.probe import StuckError
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, GLOBEX, Sums, credit

EVENTS = TopicPartition("billing.events", 0)


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


async def test_a_batch_that_fails_unforeseen_is_not_read_past(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()
    async with ledger.transaction() as tx:
        await tx.execute("update fence set consumer = 'away' where topic = $1", EVENTS.topic)
    log.publish(credit(ACME, 2))
    await log.settle()
    assert "KeyError" in consumer.check().detail or consumer.check().detail.startswith("no part")
    async with ledger.transaction() as tx:
        await tx.execute("update fence set consumer = 'ledger' where topic = $1", EVENTS.topic)
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 3


async def test_a_batch_that_does_not_follow_is_not_applied(
    ledger: Database, log: MemoryLog
) -> None:
    """The client went on without the records before it: they are read first."""
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()
    log.publish(credit(ACME, 2))
    late = log.publish(credit(ACME, 4))
    await consumer.take([late])
    assert await sums.sum_of(ledger, ACME) == 1
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 7


async def test_a_hole_that_is_really_in_the_log_is_passed(ledger: Database, log: MemoryLog) -> None:
    """A producer's transaction leaves a marker: an offset without a record."""
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()
    log.append(EVENTS.topic, None, None)
    after = log.publish(credit(ACME, 4))
    await consumer.take([after])
    consumer.places.positions[EVENTS] = 1
    await consumer.take([after])
    assert await sums.sum_of(ledger, ACME) == 5


async def test_partitions_lost_while_a_batch_commits_stay_lost(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        await consumer.on_partitions_revoked({EVENTS})
        await sums.on_credit(event, tx)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    consumer.places.positions[EVENTS] = 0
    async with ledger.transaction() as tx:
        await tx.execute(
            "insert into fence (consumer, topic, partition, next_offset) values ('ledger', $1, 0, 0)",
            EVENTS.topic,
        )
    await consumer.take([log.publish(credit(ACME, 1))])
    assert await sums.sum_of(ledger, ACME) == 1
    assert EVENTS not in consumer.places.positions


class ClientThatIsSlow:
    """Kafka's client, whose answer about the log's end is older than what was read meanwhile."""

    def __init__(self, ends: dict[TopicPartition, int], meanwhile: Any) -> None:
        self._ends, self._meanwhile = ends, meanwhile
        self.paused: set[TopicPartition] = set()

    async def end_offsets(self, _: object) -> dict[TopicPartition, int]:
        await self._meanwhile()
        return self._ends

    async def commit(self, _: object) -> None:
        """Take a hint."""

    def pause(self, *places: TopicPartition) -> None:
        self.paused |= set(places)


async def test_a_late_answer_about_the_end_of_the_log_refuses_nothing(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()
    record = log.publish(credit(ACME, 2))

    async def read_on() -> None:
        await consumer.take([record])

    places = {place: (1 if place == EVENTS else 0) for place in consumer.places.positions}
    client = ClientThatIsSlow(places, read_on)
    consumer.places.client = client
    await consumer._measure_lag(0.0)
    assert client.paused == set()
    assert consumer.places.positions[EVENTS] == 2


async def test_a_client_that_has_lost_kafka_holds_nothing_up_and_ends_the_process(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits without end for a broker that answers everybody else."""
    monkeypatch.setattr("libs.messaging.places.HINT_SECONDS", 0.01)
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()

    class LostClient:
        async def commit(self, _: object) -> None:
            await asyncio.Event().wait()

        async def end_offsets(self, _: object) -> None:
            raise TimeoutError

    async def nobody(_: str) -> bool:
        return False

    async def everybody(_: str) -> bool:
        return True

    consumer.places.client = LostClient()
    async with asyncio.timeout(60):
        await consumer.take([log.publish(credit(ACME, 2))])
    assert await sums.sum_of(ledger, ACME) == 3
    monkeypatch.setattr("libs.messaging.probe.answers", nobody)
    with pytest.raises(TimeoutError):
        await consumer._measure_lag(SILENT_SECONDS + 1)
    monkeypatch.setattr("libs.messaging.probe.answers", everybody)
    with pytest.raises(TimeoutError):
        await consumer._measure_lag(SILENT_SECONDS - 1)
    with pytest.raises(StuckError, match="hears nothing"):
        await consumer._measure_lag(SILENT_SECONDS + 1)


async def test_a_kafka_that_comes_back_just_when_somebody_else_asks_has_lost_nobody(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage that ends between the client's own question and the one of a new client."""
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.publish(credit(ACME, 1))
    await log.settle()

    class ClientOfYesterday:
        asked = 0

        async def end_offsets(self, places: set[TopicPartition]) -> dict[TopicPartition, int]:
            self.asked += 1
            if self.asked == 1:
                raise TimeoutError
            return {place: consumer.places.positions[place] for place in places}

    async def everybody(_: str) -> bool:
        return True

    consumer.places.client = client = ClientOfYesterday()
    monkeypatch.setattr("libs.messaging.probe.answers", everybody)
    await consumer._measure_lag(SILENT_SECONDS + 1)
    assert client.asked == 2


async def test_one_event_tried_again_and_again_is_one_strike(
    ledger: Database, log: MemoryLog
) -> None:
    """Five failures in a row stop a consumer only if they are of five events."""
    sums, waits = Sums(), credit(GLOBEX, 4)
    tries = 0

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        nonlocal tries
        if event.id == waits.id and tries < 6:
            tries += 1
            raise TransientError
        await sums.on_credit(event, tx)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    bad = credit(ACME)
    sums.poisoned.add(bad.id)
    log.publish(bad)
    log.publish(waits)
    consumer._pause_seconds = 0.0
    for _ in range(8):
        await log.settle()
    assert await sums.sum_of(ledger, GLOBEX) == 4
    async with ledger.transaction() as tx:
        assert await tx.fetchval("select count(*) from consumer_stop") == 0


async def test_a_stopped_consumer_is_shown_beside_one_that_runs(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    stopped, directory = log.add(ledger, {CreditGranted: sums.on_credit}, parks=False)
    events = [credit(ACME) for _ in range(6)]
    sums.poisoned = {event.id for event in events}
    for event in events:
        log.publish(event)
    await log.settle()
    await stopped._load_stop()
    await directory._load_stop()
    value = REGISTRY.get_sample_value("sluice_consumer_stopped", {"consumer": "ledger"})
    assert value == 1


async def test_events_that_nobody_handles_do_not_end_a_row_of_failures(
    ledger: Database, log: MemoryLog
) -> None:
    """A bad deploy fails on every event it handles; the others on the topic say nothing for it."""
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    for tenant in [new_id() for _ in range(10)]:
        bad = credit(tenant)
        sums.poisoned.add(bad.id)
        log.publish(bad)
        paid = InvoicePaid(
            invoice_id=new_id(), number="1", customer_id=new_id(), currency="EUR", paid_minor=1
        )
        log.publish(
            wrap(paid, tenant_id=tenant, mode="test", source="billing", effective_at=utc_now())
        )
    await log.settle()
    assert consumer.places.positions[EVENTS] == 0
    async with ledger.transaction() as tx:
        assert await tx.fetchval("select count(*) from consumer_stop") == 1
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from parked_key") == 0
