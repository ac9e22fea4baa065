"""The whole service on real Kafka: in over HTTP, durable, consumed by itself, queryable."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.record.util import calc_crc32c_py
from fastapi import FastAPI

from deploy.local.scratch import RunningKafka
from libs.clock import floor_to_minute, utc_now
from libs.contracts.billing import UsagePeriodClosed
from libs.contracts.envelope import Fact, wrap
from libs.contracts.metering import PeriodUsage
from libs.contracts.topics import TOPIC_OF
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.messaging.records import TYPE_HEADER, Record
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from metering.world import (
    PEPPER,
    Api,
    MemoryUsageLog,
    Party,
    World,
    publish_platform,
    publish_tenant,
)
from services.metering.app import build
from services.metering.producers import OUR_OWN, ProducerKeys
from services.metering.usage_log import TOPIC, LogUnavailableError, UsageLog, usage_partition
from services.metering.usage_reader import UsageReader

pytestmark = pytest.mark.kafka

CRC_AT, AFTER_CRC = 17, 21
"""Where a record batch keeps the checksum of all that follows."""


@pytest.fixture
async def kafka(kafka_server: RunningKafka) -> str:
    await create_topics(kafka_server.bootstrap)
    return kafka_server.bootstrap


@pytest.fixture
async def app(
    kafka: str, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[FastAPI, None]:
    monkeypatch.setenv("SLUICE_METERING_PORT", "8103")
    monkeypatch.setenv("SLUICE_METERING_POSTGRES", database.dsn("metering"))
    monkeypatch.setenv("SLUICE_KAFKA", kafka)
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    application = build()
    async with application.router.lifespan_context(application):
        yield application


async def send_on(kafka: str, log: MemoryLog) -> None:
    """Everything on the log in memory, onto real Kafka."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    try:
        for topic, records in log.topics.items():
            for record in records:
                headers = [(name, value or b"") for name, value in record.headers]
                await producer.send_and_wait(topic, record.value, record.key, headers=headers)
            records.clear()
    finally:
        await producer.stop()


async def tell(kafka: str, party: Party, fact: Fact) -> None:
    log = MemoryLog()
    log.publish(
        wrap(fact, tenant_id=party.id, mode="test", source="billing", effective_at=utc_now())
    )
    await send_on(kafka, log)


async def first_answer(kafka: str, party: Party) -> PeriodUsage:
    consumer = AIOKafkaConsumer(
        TOPIC_OF[PeriodUsage].name, bootstrap_servers=kafka, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            async for record in consumer:
                kind = dict(record.headers)[TYPE_HEADER].decode()
                if kind == "PeriodUsage" and record.key == str(party.id).encode():
                    return PeriodUsage.model_validate(json.loads(record.value)["data"])
    finally:
        await consumer.stop()
    raise AssertionError


@asynccontextmanager
async def enrolled(app: FastAPI, kafka: str) -> AsyncGenerator[tuple[Api, World, Party], None]:
    """The service with a tenant that it knows, and a meter of the platform's."""
    log = MemoryLog()
    platform = publish_platform(log)
    acme = publish_tenant(log, "acme", (("usage:write", "usage:read"),))
    await send_on(kafka, log)
    world = World(app.state.database, log, MemoryUsageLog(log), platform, acme, acme)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://sluice.test"
    ) as client:
        api = Api(client, world)
        async with asyncio.timeout(60):
            for party in (platform, acme):
                while not (await api.get("/api/v1/meters", party)).is_success:
                    await asyncio.sleep(0.1)
        await api.meter(platform)
        yield api, world, acme


async def until_counted(api: Api, party: Party, value: int) -> None:
    async with asyncio.timeout(60):
        while await api.value(party) != value:
            await asyncio.sleep(0.1)


async def publish_hostile(kafka: str, tenant: UUID) -> None:
    """A record of the tenant's whose header has a name that is no text."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    try:
        batch = producer.create_batch()
        headers = [("name", b"value")]
        batch.append(timestamp=None, key=str(tenant).encode(), value=b"{}", headers=headers)
        content = bytearray(batch._build()).replace(b"name", b"\xff\xfe\xff\xfe")
        content[CRC_AT:AFTER_CRC] = calc_crc32c_py(bytes(content[AFTER_CRC:])).to_bytes(4, "big")
        batch._buffer = content
        await (await producer.send_batch(batch, TOPIC, partition=usage_partition(tenant)))
    finally:
        await producer.stop()


async def test_from_http_to_the_answer_of_a_period(app: FastAPI, kafka: str) -> None:
    async with enrolled(app, kafka) as (api, world, acme):
        events = [world.event(data={"calls": 2}) for _ in range(1000)]
        for batch in (events, events[:500], [world.event()]):
            answer = await api.post("/api/v1/events", acme, batch)
            assert answer.status_code == 202, answer.text
        await until_counted(api, acme, 2001)
        now = floor_to_minute(utc_now())
        fact = UsagePeriodClosed(
            closure_id=new_id(),
            subscription_id=new_id(),
            customer_id=acme.self_customer_id,
            meters=("api_calls",),
            period_from=now - timedelta(days=1),
            period_to=now - timedelta(minutes=5),
        )
        await tell(kafka, acme, fact)
        told = await first_answer(kafka, acme)
        assert (told.closure_id, told.quantity, told.revision) == (fact.closure_id, 0, 1)
        asked_at = utc_now()
        async with asyncio.timeout(60):
            while True:
                answer = await api.get("/api/v1/meters/api_calls/query", acme)
                if (answer.json()["as_of"] or "") >= asked_at.isoformat().replace("+00:00", "Z"):
                    break
                await asyncio.sleep(0.2)


async def test_a_header_whose_name_is_no_text_holds_nobody_up(app: FastAPI, kafka: str) -> None:
    reader = UsageReader(kafka)
    async with enrolled(app, kafka) as (api, world, acme):
        begin = (await reader.bounds())[usage_partition(acme.id)].end
        await publish_hostile(kafka, acme.id)
        answer = await api.post("/api/v1/events", acme, [world.event()])
        assert answer.status_code == 202, answer.text
        await until_counted(api, acme, 1)
    records = await reader.read(usage_partition(acme.id), begin, begin + 2, whole=True)
    assert [name for name, _ in records[0].headers] == ["\\xff\\xfe\\xff\\xfe"]


async def test_batches_lie_where_every_client_looks_for_the_key(kafka: str) -> None:
    usage_log = UsageLog(kafka)
    tenant = new_id()
    values = [b'{"n":%d}' % number + b" " * 1000 for number in range(1000)]
    try:
        before = await usage_log.end_offsets()
        await usage_log.publish(tenant, values)
        await usage_log.publish(tenant, values[:1])
        await usage_log.publish(tenant, values[:1], 3)
        await usage_log.publish(tenant, values[:9], 3)
        after = await usage_log.end_offsets()
    finally:
        await usage_log.close()
    grown = {place: after[place] - before[place] for place in after if after[place] > before[place]}
    assert grown == {usage_partition(tenant): 1001, usage_partition(tenant, 3): 10}
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        sent = await producer.send_and_wait(TOPIC, b"{}", str(tenant).encode())
    finally:
        await producer.stop()
    assert sent.partition == usage_partition(tenant)


async def test_what_the_ingest_publishes_is_sealed_on_the_topic(kafka: str) -> None:
    keys, tenant = ProducerKeys.under(PEPPER), new_id()
    usage_log, reader = UsageLog(kafka, keys), UsageReader(kafka)
    partition = usage_partition(tenant)
    try:
        begin = (await reader.bounds())[partition].end
        await usage_log.publish(tenant, [b"{}"] * 20)
        await usage_log.publish(tenant, [b"{}"])
        records = await reader.read(partition, begin, begin + 21, whole=True)
    finally:
        await usage_log.close()
    assert [keys.check(record) for record in records] == [OUR_OWN] * 21
    first = records[0]
    other = Record(TOPIC, 0, 0, first.at, str(new_id()).encode(), b"{}", first.headers)
    assert keys.check(other).refusal == "bad_proof"


async def test_without_kafka_nothing_is_promised() -> None:
    usage_log = UsageLog("127.0.0.1:1")
    with pytest.raises(LogUnavailableError):
        await usage_log.publish(new_id(), [b"{}"])
    await usage_log.close()
