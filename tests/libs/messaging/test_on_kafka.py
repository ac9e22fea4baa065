"""The core on real Kafka and real Postgres: relay, fence, restart, a re-created topic."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.scratch import RunningKafka
from libs.contracts.billing import CreditGranted
from libs.db.pool import Database
from libs.directory.consume import consumers_of
from libs.ids import new_id
from libs.messaging.apply import Handler
from libs.messaging.broker import Runtime
from libs.messaging.consume import Consumer
from libs.messaging.create_topics import create_topics
from libs.messaging.outbox import emit
from libs.observability.health import Health
from libs.observability.metrics import STREAM_GAP_RECORDS_TOTAL
from libs.testing.databases import TestDatabase
from tests.libs.messaging.test_exactly_once import Sums, credit

pytestmark = pytest.mark.kafka


async def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    """Wait for something that must come true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def until_sum(sums: Sums, ledger: Database, tenant: object, amount: int) -> None:
    async with asyncio.timeout(60):
        while await sums.sum_of(ledger, tenant) != amount:  # type: ignore[arg-type]
            await asyncio.sleep(0.05)


@pytest.fixture
async def kafka(kafka_server: RunningKafka) -> str:
    await create_topics(kafka_server.bootstrap)
    return kafka_server.bootstrap


@asynccontextmanager
async def running(
    database: TestDatabase, service: str, kafka: str, handlers: dict[type, Handler]
) -> AsyncGenerator[tuple[Database, list[Consumer]], None]:
    """A service's consumers and relay, as they run in production."""
    opened = await database.open_unmanaged(service)
    runtime = Runtime(opened, kafka, Health())
    consumers = consumers_of(opened, kafka, handlers, parks=True)
    runtime.add_consumers(consumers)
    runtime.add_relay()
    async with runtime.running():
        yield opened, consumers


async def grant(billing: Database, tenant: object, amount_minor: int) -> None:
    """Billing commits a credit grant; its relay sends it."""
    async with billing.tenant(tenant, "test") as tx:  # type: ignore[arg-type]
        emit(tx, credit(tenant, amount_minor).data)  # type: ignore[arg-type]


async def test_an_event_travels_from_outbox_to_effect(database: TestDatabase, kafka: str) -> None:
    sums, tenant = Sums(), new_id()
    async with (
        running(database, "billing", kafka, {}) as (billing, _),
        running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (ledger, consumers),
    ):
        await until(lambda: all(consumer.check().ok for consumer in consumers))
        for _ in range(25):
            await grant(billing, tenant, 4)
        await until_sum(sums, ledger, tenant, 100)


async def test_a_restarted_consumer_goes_on_at_its_fence(
    database: TestDatabase, kafka: str
) -> None:
    sums, tenant = Sums(), new_id()
    async with running(database, "billing", kafka, {}) as (billing, _):
        for amount in (1, 2, 4):
            async with running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (
                ledger,
                _,
            ):
                await grant(billing, tenant, amount)
                await until_sum(sums, ledger, tenant, 2 * amount - 1)
            await grant(billing, tenant, 0)


async def test_a_fence_moved_back_replays_without_a_second_effect(
    database: TestDatabase, kafka: str
) -> None:
    sums, tenant = Sums(), new_id()
    async with (
        running(database, "billing", kafka, {}) as (billing, _),
        running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (ledger, _),
    ):
        await grant(billing, tenant, 5)
        await until_sum(sums, ledger, tenant, 5)
        async with ledger.transaction() as tx:
            await tx.execute("update fence set next_offset = 0, last_record_digest = null")
        await grant(billing, tenant, 6)
        await until_sum(sums, ledger, tenant, 11)


async def test_a_recreated_topic_is_refused_by_the_fence(
    database: TestDatabase, kafka: str
) -> None:
    sums, tenant = Sums(), new_id()
    async with running(database, "billing", kafka, {}) as (billing, _):
        async with running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (
            ledger,
            _,
        ):
            for _ in range(3):
                await grant(billing, tenant, 1)
            await until_sum(sums, ledger, tenant, 3)
        await recreate(kafka, "billing.events")
        for _ in range(9):
            await grant(billing, tenant, 100)

        async with running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (
            ledger,
            consumers,
        ):
            await until(lambda: "refused" in consumers[0].check().detail)
            assert not consumers[0].check().ok
            assert await sums.sum_of(ledger, tenant) == 3


async def test_a_topic_recreated_under_a_running_consumer_does_not_pass_unseen(
    database: TestDatabase, kafka: str
) -> None:
    """The client may go on at its offset in the new log; then the holes in the stream show it."""
    sums, tenant = Sums(), new_id()
    missing_before = missing_records()
    async with (
        running(database, "billing", kafka, {}) as (billing, _),
        running(database, "ledger", kafka, {CreditGranted: sums.on_credit}) as (ledger, consumers),
    ):
        for _ in range(3):
            await grant(billing, tenant, 1)
        await until_sum(sums, ledger, tenant, 3)
        await recreate(kafka, "billing.events")
        for _ in range(9):
            await grant(billing, tenant, 100)
        await until(
            lambda: "refused" in consumers[0].check().detail or missing_records() > missing_before
        )
        skipped = await sums.sum_of(ledger, tenant) > 3
        assert missing_records() > missing_before or not skipped


def missing_records() -> float:
    """The count of holes in `billing.events`, as Prometheus sees it."""
    value: float = STREAM_GAP_RECORDS_TOTAL.labels(topic="billing.events")._value.get()
    return value


async def recreate(bootstrap: str, topic: str) -> None:
    """Delete a topic and create it again: its offsets start at 0."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        async with asyncio.timeout(60):
            while topic in await admin.list_topics():
                await asyncio.sleep(0.1)
    finally:
        await admin.close()
    assert await create_topics(bootstrap) == [topic]
