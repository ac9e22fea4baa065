"""Usage over HTTP: how much is accepted, how much is counted end to end, and how soon it is seen.

`make bench-metering` prints the rows for docs/benchmarks.md. Two limits are measured in the same run, in turn
with the service: producing the same bytes to Kafka with acks=all, and entering the same ids in batches of
5,000. Where accepting is measured alone the consumer stands still, as one that an operator has stopped.
What is counted end to end is sent to one process of the service, and to two, as many as the machine has
cores. The sender works on the same machine. SLUICE_BENCH_EVENTS and SLUICE_BENCH_SECONDS make the run longer.
"""

import asyncio
import json
import os
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.scratch import RunningKafka
from libs.clock import utc_now
from libs.ids import new_id
from libs.messaging.consume import WATCH_SECONDS
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.metering.usage_log import BATCH_BYTES, TOPIC, usage_partition
from tests.bench.load import Measured, at_a_rate, each_once
from tests.bench.metering import (
    CUSTOMERS,
    TENANTS,
    Counting,
    MeteringProcess,
    define_meters,
    events,
    on_the_topic,
    raw_inserts,
    running,
)
from tests.bench.processes import cpu_seconds
from tests.services.metering.world import Party, publish_platform, publish_tenant

EVENTS = int(os.environ.get("SLUICE_BENCH_EVENTS") or 100_000)
SECONDS = float(os.environ.get("SLUICE_BENCH_SECONDS") or 10)
BATCH, LINES = 1_000, 4
EVENTS_PER_SECOND, BATCH_AT_A_RATE = 5_000, 100
CHECKS_PER_SECOND = 1_000
ACCEPT_GOAL, END_TO_END_GOAL = 0.5, 0.4
BALANCE_SECONDS_GOAL, CHECK_MS_GOAL = 2.0, 5.0

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(3_600)]


async def announce(kafka: str) -> list[Party]:
    """Tenants with keys, told over the directory's topic."""
    log = MemoryLog()
    publish_platform(log)
    parties = [
        publish_tenant(log, f"bench-{number}", (("usage:write", "usage:read", "billing:manage"),))
        for number in range(TENANTS)
    ]
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    try:
        for topic, records in log.topics.items():
            for record in records:
                headers = [(name, value or b"") for name, value in record.headers]
                await producer.send_and_wait(topic, record.value, record.key, headers=headers)
    finally:
        await producer.stop()
    return parties


async def known(worker: MeteringProcess, parties: list[Party]) -> None:
    """Until the service takes every key."""
    async with httpx.AsyncClient(timeout=20) as client, asyncio.timeout(60):
        for party in parties:
            url = f"http://127.0.0.1:{worker.port}/api/v1/meters"
            while not (await client.get(url, headers={"X-API-Key": party.keys[0]})).is_success:
                await asyncio.sleep(0.1)


async def define_own_meter(worker: MeteringProcess, key: str) -> None:
    """A meter of the tenant's own, by which it limits its customers; nothing of the load is counted by it."""
    body = {"key": "own", "event_type": "own", "aggregation": "count"}
    url = f"http://127.0.0.1:{worker.port}/api/v1/meters"
    async with httpx.AsyncClient(timeout=20) as client:
        answer = await client.post(url, json=body, headers={"X-API-Key": key})
    assert answer.is_success, answer.text


def request(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: sluice\r\nx-api-key: {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def posts(parties: list[Party], number: int, size: int) -> list[bytes]:
    """Requests with so many events altogether, the tenants in turn."""
    made = {party.id: events([new_id() for _ in range(CUSTOMERS)]) for party in parties}
    found = []
    for place in range(number // size):
        party = parties[place % len(parties)]
        body = json.dumps(list(islice(made[party.id], size))).encode()
        found.append(request("POST", "/api/v1/events", party.keys[0], body))
    return found


async def raw_produced(kafka: str, number: int) -> float:
    """Events per second that a plain producer writes with acks=all, in batches as the ingest makes them."""
    tenants = [new_id() for _ in range(TENANTS)]
    values = {
        tenant: [
            on_the_topic(tenant, event, utc_now()) for event in islice(events([new_id()]), BATCH)
        ]
        for tenant in tenants
    }
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka,
        enable_idempotence=True,
        acks="all",
        max_batch_size=BATCH_BYTES,
        max_request_size=1024 * 1024,
    )
    await producer.start()
    places = iter(range(number // BATCH))
    started = time.perf_counter()

    async def one() -> None:
        for place in places:
            tenant = tenants[place % TENANTS]
            batch = producer.create_batch()
            for value in values[tenant]:
                if batch.append(key=str(tenant).encode(), value=value, timestamp=None) is None:
                    await _send(producer, batch, tenant)
                    batch = producer.create_batch()
                    batch.append(key=str(tenant).encode(), value=value, timestamp=None)
            await _send(producer, batch, tenant)

    try:
        await asyncio.gather(*(one() for _ in range(LINES)))
        return number / (time.perf_counter() - started)
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, batch: Any, tenant: Any) -> None:
    batch.close()
    await (await producer.send_batch(batch, TOPIC, partition=usage_partition(tenant)))


async def accepted(worker: MeteringProcess, requests: list[bytes]) -> float:
    """Events per second that the service says are durable."""
    measured = await sent(worker, requests)
    return len(requests) * BATCH / measured.lasted_seconds


async def sent(worker: MeteringProcess, requests: list[bytes]) -> Measured:
    """Every request once, as fast as it goes."""
    measured = await each_once(requests, worker.port, lines=LINES)
    assert set(measured.statuses) == {202}
    return measured


async def end_to_end(
    admin: Any, kafka: str, parties: list[Party], *workers: MeteringProcess
) -> tuple[float, float]:
    """Events per second from the first request until all are counted; processor time of the service for each."""
    counting = Counting(admin)
    await counting.settled(kafka)
    requests = posts(parties, EVENTS, BATCH)
    end = await counting.offset() + EVENTS
    pids = [worker.process.pid for worker in workers if worker.process is not None]
    cpu = sum(map(cpu_seconds, pids))
    started = time.perf_counter()
    shares = [requests[place :: len(workers)] for place in range(len(workers))]
    await asyncio.gather(*(sent(*each) for each in zip(workers, shares, strict=True)))
    while await counting.offset() < end:
        await asyncio.sleep(0.01)
    rate = EVENTS / (time.perf_counter() - started)
    return rate, (sum(map(cpu_seconds, pids)) - cpu) / EVENTS


async def checked(worker: MeteringProcess, checks: list[bytes]) -> Measured:
    """Limit checks at the rate wanted, these in turn, of a service that has answered some."""
    await at_a_rate(cycle(checks), worker.port, per_second=200, lines=LINES, seconds=1)
    measured = await at_a_rate(
        cycle(checks),
        worker.port,
        per_second=CHECKS_PER_SECOND,
        lines=4 * LINES,
        seconds=SECONDS,
    )
    assert set(measured.statuses) == {200}
    return measured


async def stand_still(admin: Any) -> None:
    """Stop the consumer, as an operator sees it stopped."""
    await admin.execute(
        "insert into metering.consumer_stop (consumer, reason, detail, code_version) "
        "values ('metering', 'measured', 'accepting is measured alone', 'unversioned')"
    )
    await asyncio.sleep(2 * WATCH_SECONDS)


async def go_on(admin: Any) -> None:
    """Let the consumer go on."""
    await admin.execute("delete from metering.consumer_stop")


async def counted_of(admin: Any, party: Party) -> int:
    """Events of a tenant in the aggregates of the counting meter."""
    return int(
        await admin.fetchval(
            "select coalesce(sum(m.event_count), 0) from metering.usage_minute m "
            "join metering.usage_series s on s.id = m.series_id "
            "and s.tenant_id = m.tenant_id join metering.meter on meter.id = s.meter_id "
            "where m.tenant_id = $1 and meter.aggregation = 'count'",
            party.id,
        )
    )


async def seen_after(worker: MeteringProcess, admin: Any, party: Party) -> list[float]:
    """Seconds from the moment an event was due to be sent until it is in the aggregates, sorted."""
    before = await counted_of(admin, party)
    per_second = EVENTS_PER_SECOND / BATCH_AT_A_RATE
    number = int(per_second * SECONDS)
    requests = posts([party], number * BATCH_AT_A_RATE, BATCH_AT_A_RATE)
    started = time.perf_counter()
    load = asyncio.create_task(
        at_a_rate(iter(requests), worker.port, per_second=per_second, lines=LINES, seconds=SECONDS)
    )
    found: list[float] = []
    while len(found) < number:
        batches = (await counted_of(admin, party) - before) // BATCH_AT_A_RATE
        now = time.perf_counter()
        found += [now - started - place / per_second for place in range(len(found), batches)]
        await asyncio.sleep(0.01)
    assert set((await load).statuses) == {202}
    return sorted(found)


async def test_usage_over_http(
    database: TestDatabase, kafka_server: RunningKafka, tmp_path: Path
) -> None:
    kafka = kafka_server.bootstrap
    await create_topics(kafka)
    async with database.open("metering") as opened:
        await define_meters(opened)
    parties = await announce(kafka)
    worker = MeteringProcess(database, tmp_path, kafka)
    second = MeteringProcess(database, tmp_path, kafka, slot=1)
    async with database.admin() as admin, running(worker):
        await known(worker, parties)
        assert worker.process is not None
        pid = worker.process.pid
        await sent(worker, posts(parties, EVENTS // 10, BATCH))

        await stand_still(admin)
        raw_kafka = await raw_produced(kafka, EVENTS)
        requests = posts(parties, EVENTS, BATCH)
        cpu = cpu_seconds(pid)
        accept = await accepted(worker, requests)
        cpu = cpu_seconds(pid) - cpu
        await go_on(admin)

        raw_ids = (await raw_inserts(database.admin_dsn, EVENTS)).per_second
        one, both = await end_to_end(admin, kafka, parties, worker)
        seconds = await seen_after(worker, admin, parties[0])
        path, key = "/api/v1/limits/check?meter=", parties[0].keys[0]
        same = await checked(worker, [request("GET", f"{path}calls_sum", key)])
        await define_own_meter(worker, key)
        paths = [f"{path}own&customer={new_id()}" for _ in range(500)]
        each = await checked(worker, [request("GET", path, key) for path in paths])
        async with running(second):
            await known(second, parties)
            two, _ = await end_to_end(admin, kafka, parties, worker, second)
    print_row("produced by a plain client, acks=all", raw_kafka, raw_kafka, 0)
    print_row("accepted over HTTP, nothing counted", accept, raw_kafka, ACCEPT_GOAL)
    print_row("ids entered by a plain client, in batches of 5,000", raw_ids, raw_ids, 0)
    print_row("over HTTP to committed aggregates, one process", one, raw_ids, END_TO_END_GOAL)
    print_row("the same, two processes", two, raw_ids, END_TO_END_GOAL)
    print(
        f"| processor time of the service, µs per event accepted | {cpu / EVENTS * 1e6:,.0f} | | |"
    )
    print(f"| the same, accepted and counted | {both * 1e6:,.0f} | | |")
    p99 = seconds[int(len(seconds) * 0.99)]
    print(
        f"event to balance at {EVENTS_PER_SECOND:,}/s: median {seconds[len(seconds) // 2]:.2f} s, "
        f"p99 {p99:.2f} s (goal {BALANCE_SECONDS_GOAL})"
    )
    for what, checks in (("the same one", same), ("of 500 customers", each)):
        print(
            f"limit checks at {CHECKS_PER_SECOND:,}/s, {what}: "
            f"median {checks.percentile_ms(0.5):.1f} ms, "
            f"p99 {checks.percentile_ms(0.99):.1f} ms (goal {CHECK_MS_GOAL})"
        )


def print_row(name: str, per_second: float, limit: float, goal: float) -> None:
    wanted = f"{goal:.1f}" if goal else ""
    print(f"| {name} | {per_second:,.0f} | {per_second / limit:.2f} | {wanted} |")
