"""kill -9 of the producer, both workers, Kafka and Postgres while usage comes in: exact to the event.

Each of the workers is the service that takes usage over HTTP and a consumer that counts it. The moments are
drawn in numbers of events, so that a slow machine gets its turn. `make chaos` counts 1,000,000 events;
`make test` about 20,000, and kills each program once, in the same order each time.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.scratch import RunningKafka, RunningPostgres
from libs.clock import format_time, utc_now
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.metering.usage_log import TOPIC, UsageLog
from tests.bench.metering import MeteringProcess, define_meters
from tests.chaos.usage_producer import BATCH, CUSTOMERS, Plan, amount, done
from tests.conftest import story_seed
from tests.services.gateway.process import ROOT
from tests.services.metering.world import Party, publish_platform, publish_tenant

LONG = os.environ.get("SLUICE_CHAOS") == "long"
BATCHES = 4_000 if LONG else 80
ROUNDS = 10 if LONG else 1
"""How often each program is killed."""
TENANTS = 3
SHORT_SEED = 20_260_111
POLL_SECONDS = 0.02
SETTLE_SECONDS = 600.0 if LONG else 120.0
VICTIMS = ("producer", "worker 0", "worker 1", "kafka", "postgres")

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(3_600 if LONG else 600)]


@dataclass
class Programs:
    """Everything that takes part, each of which can be killed and started again."""

    folder: Path
    workers: list[MeteringProcess]
    kafka: RunningKafka
    postgres: RunningPostgres
    producer: subprocess.Popen[bytes] | None = None
    kills: Counter[str] = field(default_factory=Counter)

    def launch_producer(self) -> None:
        """Start the producer, or go on with it."""
        self.producer = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.usage_producer", str(self.folder)], cwd=ROOT
        )

    async def kill(self, victim: str) -> None:
        """kill -9, and start it again."""
        self.kills[victim] += 1
        print(f"kill -9 {victim} after {done(self.folder) * BATCH:,} events")
        if victim == "producer":
            assert self.producer is not None
            self.producer.kill()
            self.producer.wait(20)
            self.launch_producer()
        elif victim.startswith("worker"):
            worker = self.workers[int(victim[-1])]
            worker.kill()
            worker.launch()
        else:
            server = self.kafka if victim == "kafka" else self.postgres
            await asyncio.to_thread(server.kill9)
            await asyncio.to_thread(server.start_again)

    def keep_up(self) -> None:
        """Start workers again that ended themselves, as a supervisor does."""
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is not None:
                worker.launch()

    async def wait_for(self, batches: int) -> None:
        """Until so many batches are known to be accepted."""
        assert self.producer is not None
        while done(self.folder) < batches:
            ended = self.producer.poll()
            assert ended in (None, 0), f"the producer gave up with {ended}"
            self.keep_up()
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def running(programs: Programs) -> AsyncGenerator[None, None]:
    """Workers and producer run, and are ended with the block."""
    try:
        await asyncio.gather(*(worker.start() for worker in programs.workers))
        yield
    finally:
        if programs.producer is not None:
            programs.producer.kill()
            programs.producer.wait(20)
        for worker in programs.workers:
            if worker.process is not None:
                worker.kill()


async def announce(kafka: str) -> list[Party]:
    """Tenants that publish usage, each with a key; told over the directory's topic."""
    log = MemoryLog()
    publish_platform(log)
    parties = [
        publish_tenant(log, f"chaos-{number}", (("usage:write", "usage:read"),))
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


async def known_everywhere(workers: list[MeteringProcess], parties: list[Party]) -> None:
    """Until every worker takes every key."""
    async with httpx.AsyncClient(timeout=20) as client, asyncio.timeout(60):
        for worker in workers:
            for party in parties:
                url = f"http://127.0.0.1:{worker.port}/api/v1/meters"
                headers = {"X-API-Key": party.keys[0]}
                while not (await client.get(url, headers=headers)).is_success:
                    await asyncio.sleep(POLL_SECONDS)


def expected(plan: Plan, parties: list[Party]) -> dict[tuple[Any, ...], tuple[int, Decimal]]:
    """By tenant and customer, how many events there are and what they add up to."""
    found: dict[tuple[Any, ...], tuple[int, Decimal]] = {}
    for batch in range(plan.batches):
        tenant = parties[batch % TENANTS].id
        for number in plan.numbers(batch):
            place = (tenant, f"customer-{number % CUSTOMERS}")
            count, total = found.get(place, (0, Decimal(0)))
            found[place] = (count + 1, total + amount(number))
    return found


async def counted(database: TestDatabase, parties: list[Party]) -> dict[tuple[Any, ...], Any]:
    """The same, as the aggregates have it."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            """
            select s.tenant_id, s.customer,
                sum(m.event_count) filter (where meter.aggregation = 'count') as events,
                sum(m.total) filter (where meter.aggregation = 'sum') as total
            from metering.usage_minute m
            join metering.usage_series s on s.id = m.series_id and s.tenant_id = m.tenant_id
                and s.mode = m.mode
            join metering.meter on meter.id = s.meter_id
            where s.tenant_id = any($1::uuid[]) group by 1, 2
            """,
            [party.id for party in parties],
        )
    return {(row["tenant_id"], row["customer"]): (row["events"], row["total"]) for row in rows}


async def at_rest(database: TestDatabase, kafka: str) -> None:
    """Until every record on the topic is behind the consumers' fences."""
    usage_log = UsageLog(kafka)
    try:
        ends = await usage_log.end_offsets()
    finally:
        await usage_log.close()
    async with asyncio.timeout(SETTLE_SECONDS), database.admin() as admin:
        while True:
            rows = await admin.fetch(
                "select partition, next_offset from metering.fence "
                "where consumer = 'metering' and topic = $1",
                TOPIC,
            )
            fences = dict(rows)
            if all(fences.get(partition, 0) >= end for partition, end in ends.items()):
                return
            await asyncio.sleep(POLL_SECONDS)


async def test_usage_is_exact_to_the_event_whatever_is_killed(
    database: TestDatabase,
    postgres_server: RunningPostgres,
    kafka_server: RunningKafka,
    tmp_path: Path,
) -> None:
    seed = story_seed() if LONG else SHORT_SEED
    rng = random.Random(seed)
    await create_topics(kafka_server.bootstrap)
    async with database.open("metering") as opened:
        await define_meters(opened)
    parties = await announce(kafka_server.bootstrap)
    workers = [
        MeteringProcess(database, tmp_path, kafka_server.bootstrap, slot=slot) for slot in (0, 1)
    ]
    plan = Plan(
        [f"http://127.0.0.1:{worker.port}" for worker in workers],
        [party.keys[0] for party in parties],
        seed,
        BATCHES,
        format_time(utc_now() - timedelta(hours=3)),
    )
    plan.write(tmp_path)
    programs = Programs(tmp_path, workers, kafka_server, postgres_server)
    async with running(programs):
        await known_everywhere(workers, parties)
        programs.launch_producer()
        victims = [victim for _ in range(ROUNDS) for victim in rng.sample(VICTIMS, len(VICTIMS))]
        moments = sorted(rng.sample(range(1, BATCHES), len(victims)))
        for moment, victim in zip(moments, victims, strict=True):
            await programs.wait_for(moment)
            await programs.kill(victim)
        await programs.wait_for(BATCHES)
        wanted = expected(plan, parties)
        async with asyncio.timeout(SETTLE_SECONDS):
            while await counted(database, parties) != wanted:
                programs.keep_up()
                await asyncio.sleep(POLL_SECONDS * 10)
        await at_rest(database, kafka_server.bootstrap)
        assert await counted(database, parties) == wanted
        async with database.admin() as admin:
            tenants = [party.id for party in parties]
            ids = await admin.fetchval(
                "select count(*) from metering.usage_event_id where tenant_id = any($1::uuid[])",
                tenants,
            )
            letters = await admin.fetchval(
                "select count(*) from metering.dead_letter where key = any($1::bytea[])",
                [str(tenant).encode() for tenant in tenants],
            )
            conflicts = await admin.fetchval("select count(*) from metering.usage_conflict")
    assert (ids, letters, conflicts) == (BATCHES * BATCH, 0, 0)
    assert programs.kills == Counter(victims)
