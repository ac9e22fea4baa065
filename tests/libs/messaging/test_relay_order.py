"""Many rows on their way at once: sending that fails half-way loses none and changes no order."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import aiokafka.client
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RequestTimedOutError
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.protocol.produce import ProduceRequest
from prometheus_client import REGISTRY

from deploy.local.scratch import RunningKafka
from libs.clock import utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.topics import TOPICS
from libs.db.pool import Database, Row
from libs.ids import new_id
from libs.messaging import relay as relay_module
from libs.messaging.create_topics import create_topics
from libs.messaging.outbox import emit
from libs.messaging.relay import Relay, stamp
from libs.messaging.stopping import drop_unsent, stop_within
from libs.testing.databases import TestDatabase

pytestmark = pytest.mark.kafka

TOPIC = "stripe.events"
TENANTS, EACH = 3, 24


def event(number: int, characters: int = 100) -> StripeEventReceived:
    """A webhook with a payload of some length."""
    return StripeEventReceived(
        account="platform",
        stripe_event_id=f"evt_{number}",
        event_type="invoice.paid",
        api_version=None,
        created_at=utc_now(),
        object_type="invoice",
        object_id="in_1",
        payload="x" * characters,
    )


@asynccontextmanager
async def relaying(
    database: TestDatabase, kafka: str, *, pause_seconds: float = 0.0
) -> AsyncGenerator[Database, None]:
    """The gateway's outbox with its relay."""
    async with database.open("gateway") as gateway:
        relay = asyncio.create_task(Relay(gateway, kafka, pause_seconds=pause_seconds).run())
        try:
            yield gateway
        finally:
            relay.cancel()
            with suppress(asyncio.CancelledError):
                await relay


async def sent(database: TestDatabase) -> int:
    """Rows that count as sent."""
    async with database.admin() as admin:
        return int(
            await admin.fetchval("select count(*) from gateway.outbox where sent_at is not null")
        )


async def until_sent(database: TestDatabase, rows: int) -> None:
    async with asyncio.timeout(60):
        while await sent(database) != rows:
            await asyncio.sleep(0.05)


async def arrived(kafka: str, tenants: set[UUID], number: int) -> dict[UUID, list[int]]:
    """The stream numbers of tenants as they lie in the log, read until each has its last one.

    And on to where the log ended when the reading began.
    """
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    found: dict[UUID, list[int]] = {tenant: [] for tenant in tenants}
    try:
        async with asyncio.timeout(60):
            ends = await consumer.end_offsets(consumer.assignment())
            while any(number not in numbers for numbers in found.values()) or any(
                [await consumer.position(place) < end for place, end in ends.items()]
            ):
                record = await consumer.getone()
                tenant = UUID(record.key.decode())
                if tenant in found:
                    found[tenant].append(int(record.value.rpartition(b":")[2][:-1]))
    finally:
        await consumer.stop()
    return found


def first_seen(numbers: list[int]) -> list[int]:
    """Each number where it came first."""
    return list(dict.fromkeys(numbers))


async def allow(kafka: str, batch_bytes: int) -> None:
    """How large a record batch of the topic may be."""
    (topic,) = [each for each in TOPICS if each.name == TOPIC]
    settings = topic.config | {"max.message.bytes": str(batch_bytes)}
    async with asyncio.timeout(60):
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
            try:
                await admin.start()
                changed = [ConfigResource(ConfigResourceType.TOPIC, TOPIC, settings)]
                await admin.alter_configs(changed)
            except KafkaError:
                # Another test may have frozen the broker a moment ago.
                await asyncio.sleep(0.2)
            else:
                return
            finally:
                await admin.close()


async def until_refused(kafka: str, characters: int) -> None:
    """A broker tells that a setting is taken before it keeps to it."""
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer, asyncio.timeout(60):
        with suppress(MessageSizeTooLargeError):
            while True:
                # No consumer knows the type, so all pass it over.
                await producer.send_and_wait(
                    TOPIC,
                    b"x" * characters,
                    key=str(new_id()).encode(),
                    headers=[("type", b"Probe")],
                )
                await asyncio.sleep(0.1)


def given_up() -> float:
    """How often the relay has started anew, as sending took too long."""
    return REGISTRY.get_sample_value("sluice_relay_errors_total", {"error": "TimeoutError"}) or 0


async def test_nothing_overtakes_a_row_that_the_broker_refuses(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    """The first row of a tenant is too long for the broker, those behind it are not."""
    kafka, tenant = kafka_server.bootstrap, new_id()
    await create_topics(kafka)
    await allow(kafka, 20_000)
    try:
        await until_refused(kafka, 40_000)
        async with relaying(database, kafka) as gateway:
            async with gateway.tenant(tenant, "test") as tx:
                emit(tx, event(1, characters=40_000))
                for number in range(2, 12):
                    emit(tx, event(number))
            await asyncio.sleep(1.5)
            assert await sent(database) == 0
            await allow(kafka, 1024 * 1024)
            await until_sent(database, 11)
        numbers = (await arrived(kafka, {tenant}, 11))[tenant]
    finally:
        await allow(kafka, 1024 * 1024)
    assert first_seen(numbers) == list(range(1, 12))


async def test_a_broker_that_hangs_half_way_loses_nothing_and_keeps_the_order(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops as the first batches are on their way, comes back, and gets everything."""
    kafka, tenants = kafka_server.bootstrap, {new_id() for _ in range(TENANTS)}
    await create_topics(kafka)
    monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(relay_module, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(relay_module, "BATCH_ROWS", 16)
    monkeypatch.setattr(relay_module, "BATCH_BYTES_MAX", 4_000)
    batches, hung = 0, asyncio.Event()
    add_batch = MessageAccumulator.add_batch

    async def counting(self: MessageAccumulator, *args: object) -> object:
        nonlocal batches
        batches += 1
        if batches == 4:
            os.kill(kafka_server.pid, signal.SIGSTOP)
            hung.set()
        return await add_batch(self, *args)

    monkeypatch.setattr(MessageAccumulator, "add_batch", counting)
    given_up_before = given_up()
    async with relaying(database, kafka) as gateway:
        for tenant in tenants:
            async with gateway.tenant(tenant, "test") as tx:
                for number in range(1, EACH + 1):
                    emit(tx, event(number))
        async with asyncio.timeout(60):
            await hung.wait()
        try:
            # What was acknowledged by then is noted before the relay gives its producer up.
            async with asyncio.timeout(60):
                while given_up() == given_up_before:
                    await asyncio.sleep(0.05)
            before = await sent(database)
            await asyncio.sleep(1.5)
            assert await sent(database) == before < TENANTS * EACH
        finally:
            monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 30.0)
            os.kill(kafka_server.pid, signal.SIGCONT)
        await until_sent(database, TENANTS * EACH)
        await asyncio.sleep(1.0)
    for numbers in (await arrived(kafka, tenants, EACH)).values():
        assert first_seen(numbers) == list(range(1, EACH + 1))
        assert numbers[-1] == EACH


async def test_a_producer_given_up_sends_nothing_behind_its_successor(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record reaches the broker for a while; one that was given up would try again then."""
    kafka, tenant = kafka_server.bootstrap, new_id()
    await create_topics(kafka)
    monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(relay_module, "STOP_SECONDS", 0.1)
    slow = partial(AIOKafkaProducer, retry_backoff_ms=500)
    monkeypatch.setattr(relay_module, "AIOKafkaProducer", slow)
    cut_off, send = True, AIOKafkaClient.send

    async def sending(self: AIOKafkaClient, node: int, request: object, **options: Any) -> object:
        if cut_off and isinstance(request, ProduceRequest):
            raise RequestTimedOutError
        return await send(self, node, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", sending)
    before = given_up()
    async with relaying(database, kafka) as gateway:
        async with gateway.tenant(tenant, "test") as tx:
            emit(tx, event(1))
        async with asyncio.timeout(60):
            while given_up() < before + 3:
                await asyncio.sleep(0.05)
        cut_off = False
        monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 60.0)
        await until_sent(database, 1)
        async with gateway.tenant(tenant, "test") as tx:
            emit(tx, event(2))
        await until_sent(database, 2)
        await asyncio.sleep(1.0)
    numbers = (await arrived(kafka, {tenant}, 2))[tenant]
    assert numbers == sorted(numbers)
    # Twice where one was taken and its acknowledgement came too late; never once for each attempt.
    assert numbers.count(1) <= 2


async def test_rows_that_are_too_many_for_one_batch_are_read_once(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka, tenant = kafka_server.bootstrap, new_id()
    await create_topics(kafka)
    read: list[int] = []
    number_rows = relay_module.number_rows

    async def counting(connection: Any, shards: Sequence[int]) -> list[Row]:
        rows = await number_rows(connection, shards)
        if rows:
            read.append(len(rows))
        return rows

    monkeypatch.setattr(relay_module, "number_rows", counting)
    async with relaying(database, kafka) as gateway:
        async with gateway.tenant(tenant, "test") as tx:
            for number in range(1, 21):
                emit(tx, event(number, characters=300_000))
        await until_sent(database, 20)
    assert read == [20]
    assert (await arrived(kafka, {tenant}, 20))[tenant] == list(range(1, 21))


async def test_what_is_committed_soon_after_something_was_sent_goes_together(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    kafka, tenant = kafka_server.bootstrap, new_id()
    await create_topics(kafka)
    async with relaying(database, kafka, pause_seconds=10.0) as gateway:
        for number in range(1, 4):
            async with gateway.tenant(tenant, "test") as tx:
                emit(tx, event(number))
            if number == 1:
                await until_sent(database, 1)
        await until_sent(database, 3)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(distinct sent_at) from gateway.outbox") == 2
    assert (await arrived(kafka, {tenant}, 3))[tenant] == [1, 2, 3]


async def test_a_connection_opened_after_its_producer_was_given_up_carries_nothing(
    kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was waiting for the connection to a broker that hung."""
    kafka, tenant = kafka_server.bootstrap, new_id()
    await create_topics(kafka)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    await producer.start()
    await producer.partitions_for(TOPIC)
    for connection in producer.client._conns.values():
        connection.close()
    opening, go_on, connect = asyncio.Event(), asyncio.Event(), aiokafka.client.create_conn

    async def connecting(*where: Any, **options: Any) -> Any:
        opening.set()
        await go_on.wait()
        return await connect(*where, **options)

    monkeypatch.setattr(aiokafka.client, "create_conn", connecting)
    await producer.send(TOPIC, stamp("{}", 1), key=str(tenant).encode(), partition=0)
    await opening.wait()
    drop_unsent(producer)
    go_on.set()
    await stop_within(producer, 5.0)
    monkeypatch.undo()
    assert not producer.client._conns
    async with AIOKafkaProducer(bootstrap_servers=kafka) as successor:
        await successor.send_and_wait(TOPIC, stamp("{}", 2), str(tenant).encode(), partition=0)
    assert (await arrived(kafka, {tenant}, 2))[tenant] == [2]
