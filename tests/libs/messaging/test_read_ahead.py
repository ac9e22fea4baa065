"""A batch is read while the one before is at work, and thrown away when that one was put back."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope
from libs.db.pool import Database, Tx
from libs.messaging import records
from libs.messaging.apply import TransientError
from libs.messaging.fence import Fence
from libs.messaging.records import WEIGHT_MAX, Record, UndecodableError, in_parts, tenant_in
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, Sums, credit

EVENTS = TopicPartition("billing.events", 0)
NOW = utc_now()


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


class Client:
    """Kafka's client as far as it is put back."""

    def __init__(self) -> None:
        self.sought: list[int] = []

    def seek(self, place: TopicPartition, offset: int) -> None:
        assert place == EVENTS
        self.sought.append(offset)

    async def commit(self, _: object) -> None:
        """Take a hint."""


async def test_a_batch_is_read_while_the_one_before_is_at_work(
    ledger: Database, log: MemoryLog
) -> None:
    sums, at_work, go_on = Sums(), asyncio.Event(), asyncio.Event()
    read: list[int] = []

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        at_work.set()
        await go_on.wait()
        await sums.on_credit(event, tx)

    def reader(record: Record) -> int:
        read.append(record.offset)
        return record.offset

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    await log.settle()
    consumer._readers = {EVENTS.topic: reader}
    first, second = log.publish(credit(ACME, 1)), log.publish(credit(ACME, 2))
    await consumer.deliver([first])
    await at_work.wait()
    behind = asyncio.create_task(consumer.deliver([second]))
    while read != [0, 1]:
        await asyncio.sleep(0)
    assert consumer.places.positions[EVENTS] == 0
    go_on.set()
    await behind
    await consumer.end()
    assert (first.prepared, second.prepared) == (0, 1)
    assert await sums.sum_of(ledger, ACME) == 3


async def test_what_was_read_behind_a_batch_that_failed_is_thrown_away(
    ledger: Database, log: MemoryLog
) -> None:
    sums, failures, taken = Sums(), [TransientError("once")], []

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        if failures:
            raise failures.pop()
        taken.append(event.data.amount_minor)
        await sums.on_credit(event, tx)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    await log.settle()
    client = consumer.places.client = Client()
    first, second = log.publish(credit(ACME, 1)), log.publish(credit(ACME, 2))
    await consumer.deliver([first])
    await consumer.deliver([second])
    await consumer.end()
    assert (taken, client.sought) == ([], [0, 0])
    await consumer.deliver([first])
    await consumer.deliver([second])
    await consumer.end()
    assert (taken, consumer.places.positions[EVENTS]) == ([1, 2], 2)
    assert not consumer.places.unplaced


async def test_what_was_read_behind_a_batch_that_another_rewind_made_void_is_void_too(
    ledger: Database, log: MemoryLog
) -> None:
    """A hole is normal in a compacted topic, so nothing else would see that a record is skipped."""
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    await log.settle()
    consumer.places._compacted = frozenset({EVENTS.topic})
    other = TopicPartition(EVENTS.topic, 1)
    consumer.places.positions[other] = 7
    client = consumer.places.client = Client()
    first, second = log.publish(credit(ACME, 1)), log.publish(credit(ACME, 2))
    async with consumer._lock:
        await consumer.deliver([first])
        consumer.places.client = None
        consumer.places.go_back(Fence(other.topic, other.partition, 3, None))
        consumer.places.client = client
        behind = asyncio.create_task(consumer.deliver([second]))
        for _ in range(3):
            await asyncio.sleep(0)
    await behind
    await consumer.end()
    assert await sums.sum_of(ledger, ACME) == 0
    assert (consumer.places.positions[EVENTS], client.sought[-1]) == (0, 0)
    await consumer.deliver([first, second])
    await consumer.end()
    assert await sums.sum_of(ledger, ACME) == 3


async def test_a_batch_that_is_too_much_for_one_transaction_is_applied_in_parts(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, together = Sums(), []
    failures = [TransientError("once")]

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        if event.data.amount_minor == 4 and failures:
            raise failures.pop()
        await sums.on_credit(event, tx)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    await log.settle()
    consumer.places.client = Client()
    consumer._weigh = lambda record: 10_000 if record.offset != 2 else 50_000
    commit = consumer._commit_batch

    async def committed(records: Sequence[Record]) -> None:
        await commit(records)
        together.append([record.offset for record in records])

    monkeypatch.setattr(consumer, "_commit_batch", committed)
    batch = [log.publish(credit(ACME, amount)) for amount in range(6)]
    await consumer.deliver(batch)
    await consumer.end()
    assert (together, consumer.places.positions[EVENTS]) == ([[0, 1], [2]], 3)
    await consumer.deliver(batch[3:])
    await consumer.end()
    assert together == [[0, 1], [2], [3, 4], [5]]
    assert await sums.sum_of(ledger, ACME) == 15


@given(st.lists(st.integers(0, 30_000), max_size=40))
def test_parts_are_all_records_in_their_order(weights: list[int]) -> None:
    all_of_them = [Record("t", 0, offset, NOW, None, None) for offset in range(len(weights))]
    parts = list(in_parts(all_of_them, lambda record: weights[record.offset]))
    assert [record for part in parts for record in part] == all_of_them
    for part in parts:
        assert len(part) <= 1 or sum(weights[record.offset] for record in part) <= WEIGHT_MAX
    if all_of_them:
        assert all(parts)


async def test_a_batch_that_cannot_be_read_ahead_is_not_read_past(
    ledger: Database, log: MemoryLog
) -> None:
    sums, failures = Sums(), [ValueError("once")]

    def reader(_: Record) -> None:
        if failures:
            raise failures.pop()

    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    await log.settle()
    consumer._readers = {EVENTS.topic: reader}
    client = consumer.places.client = Client()
    first = log.publish(credit(ACME, 1))
    with pytest.raises(ValueError, match="once"):
        await consumer.deliver([first])
    assert client.sought == [0]
    await consumer.deliver([first])
    await consumer.end()
    assert await sums.sum_of(ledger, ACME) == 1


async def test_the_end_waits_for_what_was_set_to_work_meanwhile(
    ledger: Database, log: MemoryLog
) -> None:
    sums, at_work, go_on = Sums(), asyncio.Event(), asyncio.Event()

    async def on_credit(event: Envelope[Any], tx: Tx) -> None:
        at_work.set()
        await go_on.wait()
        await sums.on_credit(event, tx)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    await log.settle()
    first, second = log.publish(credit(ACME, 1)), log.publish(credit(ACME, 2))
    await consumer.deliver([first])
    await at_work.wait()
    behind = asyncio.create_task(consumer.deliver([second]))
    await asyncio.sleep(0)
    end = asyncio.create_task(consumer.end())
    await asyncio.sleep(0)
    go_on.set()
    await behind
    await end
    assert consumer._at_work is None
    assert await sums.sum_of(ledger, ACME) == 3


def test_a_key_that_is_no_tenant_is_not_remembered() -> None:
    tenant_in(str(ACME).encode())
    remembered = records._tenant.cache_info().currsize
    for key in (None, b"", b"k" * 37, str(ACME).encode() * 1_000):
        with pytest.raises(UndecodableError, match="not a tenant id"):
            tenant_in(key)
    assert records._tenant.cache_info().currsize == remembered
