"""How many webhooks the gateway acknowledges, against what Postgres itself could take.

`make bench` prints the rows for docs/benchmarks.md. The limit is measured in the same run, before and
after: one durable insert of the same body per request, in autocommit, by turns over as many connections
as the gateway has and over as many as there are requests under way. Kafka is there, so the relay works
beside; the sender shares the machine, so its requests are signed before the clock starts and the CPU
time of all is shown.
"""

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.scratch import RunningKafka, RunningPostgres
from libs.clock import utc_now
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from services.gateway.signature import sign
from tests.bench.load import Measured, as_fast_as_it_goes, at_a_rate
from tests.bench.processes import cpu_seconds, tree
from tests.services.gateway.conftest import CURRENT, URL, enrol, enrol_parties, snapshot_event
from tests.services.gateway.process import GatewayProcess

LINES, POOL_LINES = 64, 16
"""Connections of the sender, and of the gateway's pool; the raw inserts are measured over as many."""
RAW_SECONDS, WARM_SECONDS, LOAD_SECONDS = 4.0, 3.0, 10.0
TENANTS = 200
SHARE_MIN = 0.25
HALF_RATE_P99_MS_MAX = 50
"""At half the rate that the share asks for."""

STEADY_PER_SECOND = 750
"""A rate with room to spare on two cores."""

PER_SECOND_MAX = 4_000
"""So many requests are made beforehand for each second."""

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


def invoice_event(number: int) -> dict[str, Any]:
    """An `invoice.paid` of the size that Stripe sends (about 3 kB)."""
    lines = [
        {
            "id": f"il_{number}_{place}",
            "object": "line_item",
            "amount": 2_900,
            "currency": "eur",
            "description": "1 x Pro (at €29.00 / month)",
            "period": {"start": 1_790_000_000, "end": 1_792_592_000},
            "pricing": {
                "type": "price_details",
                "price_details": {"price": "price_1", "product": "prod_1"},
            },
            "quantity": 1,
            "metadata": {},
        }
        for place in range(5)
    ]
    return snapshot_event(
        data={
            "object": {
                "id": f"in_{number}",
                "object": "invoice",
                "customer": f"cus_{number % TENANTS}",
                "amount_due": 14_500,
                "amount_paid": 14_500,
                "currency": "eur",
                "status": "paid",
                "hosted_invoice_url": "https://invoice.stripe.com/i/acct_1/test_" + "x" * 80,
                "lines": {"object": "list", "data": lines, "has_more": False},
                "parent": {
                    "subscription_details": {"subscription": f"sub_{number}", "metadata": {}}
                },
            }
        }
    )


def webhooks(port: int) -> Iterator[bytes]:
    """Signed requests, each with an event of its own."""
    for number in itertools.count():
        body = json.dumps(invoice_event(number)).encode()
        head = (
            f"POST {URL} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: Stripe/1.0\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nstripe-signature: "
        )
        yield head.encode() + sign(CURRENT, body, int(utc_now().timestamp())) + b"\r\n\r\n" + body


def prepared(requests: Iterator[bytes], number: int) -> Iterator[bytes]:
    """The next requests, made and signed now."""
    return iter(list(itertools.islice(requests, number)))


@dataclass(frozen=True)
class Machine:
    """The programs that take part, by process id: what they take of the machine."""

    gateway: int
    postgres: int

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time of each until now."""
        found = {"sender": cpu_seconds(os.getpid())}
        for name, pid in (("gateway", self.gateway), ("postgres", self.postgres)):
            found[name] = sum(map(cpu_seconds, tree(pid)))
        everything = sum(map(cpu_seconds, tree(os.getpid())))
        return found | {"kafka": everything - sum(found.values())}


@dataclass(frozen=True)
class Spent:
    """Processor time of each program for one request, in milliseconds."""

    milliseconds: dict[str, float]

    @classmethod
    def between(cls, before: dict[str, float], after: dict[str, float], requests: int) -> "Spent":
        """What was spent between two readings, for each of so many requests."""
        return cls({name: (after[name] - before[name]) * 1000 / requests for name in before})

    @property
    def per_second_at_most(self) -> float:
        """What this machine could do, all its cores busy with nothing else."""
        return (os.cpu_count() or 1) * 1000 / sum(self.milliseconds.values())

    def __str__(self) -> str:
        each = ", ".join(f"{name} {value:.2f}" for name, value in self.milliseconds.items())
        return f"{each}; so {self.per_second_at_most:,.0f} per second at most"


@dataclass
class Limit:
    """Durable inserts, one per request, over so many connections; measured more than once.

    Attributes:
        busy_seconds: processor time of the one process that sends them.
    """

    lines: int
    inserts: int = 0
    lasted_seconds: float = 0.0
    busy_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Inserts per second."""
        return self.inserts / self.lasted_seconds

    @property
    def name(self) -> str:
        """What it is called in rows."""
        return f"one durable insert per request, {self.lines} connections"

    def __str__(self) -> str:
        busy = self.busy_seconds / self.lasted_seconds
        return f"{self.name}: {self.per_second:,.0f} per second, its sender busy for {busy:.2f}"

    async def measure(self, dsn: str) -> None:
        """Insert for some seconds more."""
        body = json.dumps(invoice_event(0)).encode()
        connections = [await asyncpg.connect(dsn) for _ in range(self.lines)]
        await connections[0].execute(
            "create table if not exists raw (id uuid primary key, body bytea)"
        )
        busy, started = cpu_seconds(os.getpid()), time.perf_counter()

        async def one(connection: Any) -> None:
            while time.perf_counter() - started < RAW_SECONDS:
                await connection.execute("insert into raw values ($1, $2)", new_id(), body)
                self.inserts += 1

        await asyncio.gather(*(one(connection) for connection in connections))
        self.lasted_seconds += time.perf_counter() - started
        self.busy_seconds += cpu_seconds(os.getpid()) - busy
        for connection in connections:
            await connection.close()


async def enrol_customers(database: Database) -> None:
    """Tenants, each with a customer that events name."""
    await enrol_parties(database)
    for number in range(TENANTS):
        await enrol(database, new_id(), f"t-{number}", None, customers=(f"cus_{number}",))


@dataclass(frozen=True)
class Door:
    """The gateway's process and the requests that are sent to it."""

    port: int
    requests: Iterator[bytes]

    async def at_full(self, ready: Iterator[bytes], seconds: float) -> Measured:
        """Requests as fast as they are answered."""
        return await as_fast_as_it_goes(ready, self.port, lines=LINES, seconds=seconds)

    async def at(self, per_second: float) -> Measured:
        """Requests at fixed moments."""
        ready = prepared(self.requests, int(per_second * LOAD_SECONDS))
        return await at_a_rate(
            ready, self.port, per_second=per_second, lines=LINES, seconds=LOAD_SECONDS
        )


async def test_acknowledgements_against_the_raw_limit(
    postgres_server: RunningPostgres,
    database: TestDatabase,
    kafka_server: RunningKafka,
    tmp_path: Path,
) -> None:
    await create_topics(kafka_server.bootstrap)
    async with database.open("gateway") as opened:
        await enrol_customers(opened)
    process = GatewayProcess(database, tmp_path, kafka=kafka_server.bootstrap, log_level="warning")
    await process.start()
    limits = [Limit(lines) for lines in (POOL_LINES, LINES)]
    try:
        door = Door(process.port, webhooks(process.port))
        warm = prepared(door.requests, int(WARM_SECONDS * PER_SECOND_MAX))
        await door.at_full(warm, WARM_SECONDS)
        machine = Machine(process.pid, postmaster(postgres_server))
        start = machine.cpu_seconds()
        for limit in limits:
            await limit.measure(database.admin_dsn)
        inserts = sum(limit.inserts for limit in limits)
        of_insert = Spent.between(start, machine.cpu_seconds(), inserts)
        ready = prepared(door.requests, int(LOAD_SECONDS * PER_SECOND_MAX))
        start = machine.cpu_seconds()
        full = await door.at_full(ready, LOAD_SECONDS)
        of_webhook = Spent.between(start, machine.cpu_seconds(), len(full.seconds))
        for limit in reversed(limits):
            await limit.measure(database.admin_dsn)
        rated = []
        for per_second in (*(half_rate(limit) for limit in limits), STEADY_PER_SECOND):
            await everything_sent(database)
            rated.append(await door.at(per_second))
        await everything_sent(database)
    finally:
        process.kill()
    print_row("as fast as it goes", full, limits)
    for limit, measured in zip(limits, rated, strict=False):
        print_row(f"at half the rate wanted of {limit.lines} connections", measured, limits)
    print_row("at a steady rate", rated[-1], limits)
    for limit in limits:
        print(limit)
        print(f"share {full.per_second / limit.per_second:.2f} (goal {SHARE_MIN})")
    print(f"CPU ms of an insert: {of_insert}")
    print(f"CPU ms of a webhook: {of_webhook}; load {os.getloadavg()[0]:.0f}")
    print(f"goal of p99 at half the rate wanted: {HALF_RATE_P99_MS_MAX} ms")
    assert {status for each in (full, *rated) for status in each.statuses} == {200}


def half_rate(limit: Limit) -> float:
    """Half the rate that the share asks for."""
    return limit.per_second * SHARE_MIN / 2


def postmaster(server: RunningPostgres) -> int:
    """Its process, of which all others of the server are children."""
    return int((server.data / "postmaster.pid").read_text().split()[0])


def print_row(name: str, measured: Measured, limits: list[Limit]) -> None:
    shares = " | ".join(f"{measured.per_second / limit.per_second:.2f}" for limit in limits)
    print(
        f"| webhooks acknowledged, {name} | {measured.per_second:,.0f} | {shares} "
        f"| {measured.percentile_ms(0.5):.1f} | {measured.percentile_ms(0.99):.1f} |"
    )


async def everything_sent(database: TestDatabase) -> None:
    """What was acknowledged was kept and reaches Kafka, each once."""
    async with database.admin() as admin, asyncio.timeout(120):
        while await admin.fetchval("select count(*) from gateway.outbox where sent_at is null"):
            await asyncio.sleep(0.5)
        kept, told = await admin.fetchrow(
            "select (select count(*) from gateway.webhook_event), "
            "(select count(*) from gateway.outbox where topic = 'stripe.events')"
        )
    assert kept == told
