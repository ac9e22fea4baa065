"""How many webhooks the gateway acknowledges, against what Postgres itself could take.

`make bench` prints the rows for docs/benchmarks.md. The limit is measured in the same run, before and
after: one durable insert of the same body per request, in autocommit, over as many connections as the
gateway has. Kafka is there, so the relay works beside; the sender shares the machine, so its requests
are signed before the clock starts and the CPU time of both is shown.
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

from deploy.local.scratch import RunningKafka
from libs.clock import utc_now
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from services.gateway.signature import sign
from tests.bench.load import Measured, as_fast_as_it_goes, at_a_rate
from tests.services.gateway.conftest import CURRENT, URL, enrol, enrol_parties, snapshot_event
from tests.services.gateway.process import GatewayProcess

LINES, RAW_LINES = 64, 16
"""Connections of the sender; and of the raw inserts, as many as the pool of the gateway has."""
RAW_SECONDS, WARM_SECONDS, LOAD_SECONDS = 4.0, 3.0, 10.0
TENANTS = 200
SHARE_MIN = 0.25
HALF_RATE_P99_MS_MAX = 50
"""At half the rate that the share asks for."""

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
class CpuTimes:
    """CPU seconds that the gateway and the sender have used."""

    gateway: float
    sender: float

    @classmethod
    def of(cls, process: GatewayProcess) -> "CpuTimes":
        """Until now."""
        assert process.process is not None
        fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return cls(ticks / os.sysconf("SC_CLK_TCK"), time.process_time())

    def __sub__(self, before: "CpuTimes") -> "CpuTimes":
        return CpuTimes(self.gateway - before.gateway, self.sender - before.sender)

    def per(self, measured: Measured) -> str:
        """In milliseconds of each request."""
        share = 1_000 / len(measured.seconds)
        return f"gateway {self.gateway * share:.2f} ms, sender {self.sender * share:.2f} ms"


async def raw_inserts(dsn: str) -> float:
    """Durable inserts per second, one per request."""
    body = json.dumps(invoice_event(0)).encode()
    connections = [await asyncpg.connect(dsn) for _ in range(RAW_LINES)]
    await connections[0].execute("create table if not exists raw (id uuid primary key, body bytea)")
    done = 0
    started = time.perf_counter()

    async def one(connection: Any) -> None:
        nonlocal done
        while time.perf_counter() - started < RAW_SECONDS:
            await connection.execute("insert into raw values ($1, $2)", new_id(), body)
            done += 1

    await asyncio.gather(*(one(connection) for connection in connections))
    rate = done / (time.perf_counter() - started)
    for connection in connections:
        await connection.close()
    return rate


async def enrol_customers(database: Database) -> None:
    """Tenants, each with a customer that events name."""
    await enrol_parties(database)
    for number in range(TENANTS):
        await enrol(database, new_id(), f"t-{number}", None, customers=(f"cus_{number}",))


async def test_acknowledgements_against_the_raw_limit(
    database: TestDatabase, kafka_server: RunningKafka, tmp_path: Path
) -> None:
    await create_topics(kafka_server.bootstrap)
    async with database.open("gateway") as opened:
        await enrol_customers(opened)
    process = GatewayProcess(database, tmp_path, kafka=kafka_server.bootstrap, log_level="warning")
    await process.start()
    try:
        made = webhooks(process.port)
        for seconds in (WARM_SECONDS, LOAD_SECONDS):
            before = await raw_inserts(database.admin_dsn)
            ready = prepared(made, int(seconds * PER_SECOND_MAX))
            spent = CpuTimes.of(process)
            full = await as_fast_as_it_goes(ready, process.port, lines=LINES, seconds=seconds)
            spent = CpuTimes.of(process) - spent
        after = await raw_inserts(database.admin_dsn)
        raw = (before + after) / 2
        rate = raw * SHARE_MIN / 2
        half = await at_a_rate(
            prepared(made, int(rate * LOAD_SECONDS)),
            process.port,
            per_second=rate,
            lines=LINES,
            seconds=LOAD_SECONDS,
        )
        await everything_sent(database)
    finally:
        process.kill()
    print(f"| one durable insert per request | {raw:,.0f} | 1 | | |")
    print_row("webhooks acknowledged, as fast as it goes", full, raw)
    print_row("webhooks acknowledged, at half the rate wanted", half, raw)
    print(f"CPU per webhook: {spent.per(full)}; load {os.getloadavg()[0]:.0f}")
    assert set(full.statuses) == set(half.statuses) == {200}
    print(
        f"share {full.per_second / raw:.2f} (goal {SHARE_MIN}), p99 at half rate "
        f"{half.percentile_ms(0.99):.0f} ms (goal {HALF_RATE_P99_MS_MAX})"
    )


def print_row(name: str, measured: Measured, raw: float) -> None:
    print(
        f"| {name} | {measured.per_second:,.0f} | {measured.per_second / raw:.2f} "
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
