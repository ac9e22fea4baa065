"""Records put aside: odd bytes are kept, queues drain in order, nothing stays for ever."""

from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope
from libs.db.pool import Database, Tx
from libs.messaging.interventions import Act, release_key
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, GLOBEX, Poison, Sums, credit

EVENTS = TopicPartition("billing.events", 0)


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


async def free_key(ledger: Database, log: MemoryLog, tenant_id: UUID) -> None:
    assert await release_key(
        ledger, "ledger", EVENTS.topic, str(tenant_id), Act("cli:test", "mended")
    )
    await log.consumers(ledger)[0].drain()


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (b"\x00", (("type", b"CreditGranted"),)),
        (str(ACME).encode(), (("\x00", b"\x00"),)),
        (b"\xff\x00", (("ty\x00pe", None), ("type", b"CreditGranted"))),
    ],
)
async def test_bytes_that_postgres_cannot_hold_as_text_are_buried(
    ledger: Database, log: MemoryLog, key: bytes, headers: Any
) -> None:
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit})[0]
    log.append(EVENTS.topic, key, b"{}", headers)
    log.publish(credit(GLOBEX, 1))
    await log.settle()
    assert consumer.places.positions[EVENTS] == 2
    assert await sums.sum_of(ledger, GLOBEX) == 1
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select key from dead_letter") == key


@pytest.mark.parametrize("parks", [True, False])
async def test_a_failure_with_odd_words_is_kept_too(
    ledger: Database, log: MemoryLog, *, parks: bool
) -> None:
    async def fail(event: Envelope[Any], _: Tx) -> None:
        raise Poison(f"half \ud800 and \x00 of {event.id}")

    consumer = log.add(ledger, {CreditGranted: fail}, parks=parks)[0]
    log.publish(credit(ACME))
    await log.settle()
    assert consumer.places.positions[EVENTS] == 1
    async with ledger.maintenance() as tx:
        table = "parked_key" if parks else "dead_letter"
        assert "half" in await tx.fetchval(f"select detail from {table}")


async def test_garbage_under_a_parked_key_does_not_keep_it_parked(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    bad = credit(ACME, 1)
    sums.poisoned.add(bad.id)
    log.publish(bad)
    await log.settle()
    log.append(EVENTS.topic, str(ACME).encode(), b"\xff", (("type", b"CreditGranted"),))
    log.publish(credit(ACME, 2))
    await log.settle()
    sums.poisoned.clear()
    await free_key(ledger, log, ACME)
    assert await sums.sum_of(ledger, ACME) == 3
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from parked_key") == 0
        assert await tx.fetchval("select value from dead_letter") == b"\xff"


async def test_a_queue_counts_what_is_in_it(ledger: Database, log: MemoryLog) -> None:
    """A queue drained in part must not be full before its time."""
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    events = [credit(ACME, 1) for _ in range(120)]
    sums.poisoned.add(events[0].id)
    for event in events:
        log.publish(event)
    await log.settle()
    sums.poisoned = {events[110].id}
    await free_key(ledger, log, ACME)
    assert await sums.sum_of(ledger, ACME) == 100
    async with ledger.maintenance() as tx:
        row = await tx.fetchrow("select records, bytes from parked_key")
        left = await tx.fetchrow("select count(*), sum(length(value)) from parked_record")
    assert row is not None
    assert left is not None
    assert tuple(row) == tuple(left) == (20, left[1])


async def test_new_records_queue_behind_between_two_pieces_of_a_drain(
    ledger: Database, log: MemoryLog
) -> None:
    order: list[UUID] = []
    poisoned: set[UUID] = set()

    async def on_credit(event: Envelope[Any], _: Tx) -> None:
        if event.id in poisoned:
            raise Poison
        order.append(event.id)

    consumer = log.add(ledger, {CreditGranted: on_credit})[0]
    events = [credit(ACME, 1) for _ in range(120)]
    poisoned.add(events[0].id)
    for event in events[:110]:
        log.publish(event)
    await log.settle()
    poisoned = {events[105].id}
    await free_key(ledger, log, ACME)
    assert len(order) >= 100
    for event in events[110:]:
        log.publish(event)
    await log.settle()
    poisoned = set()
    await free_key(ledger, log, ACME)
    # What a piece did before its failure was rolled back, so it was done once more.
    kept = list(dict.fromkeys(order))
    assert kept == [event.id for event in events]
    assert consumer.check().detail != "KeyError"
