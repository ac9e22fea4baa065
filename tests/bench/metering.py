"""What the benchmarks of metering share: its processes, its events, and the raw limits."""

import asyncio
import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx

from libs.clock import format_time, utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.metering import meters
from services.metering.usage_log import TOPIC, UsageLog
from tests.bench.processes import cpu_seconds
from tests.services.gateway.process import ROOT, free_port
from tests.services.metering.world import PEPPER

TENANTS, CUSTOMERS = 10, 20
RAW_BATCH = 5_000
PUBLISHED_AT_ONCE = 1_000
STARTS_SECONDS = 60
POLL_SECONDS = 0.02


@dataclass
class MeteringProcess:
    """`python -m services.metering.app`: one worker, with its HTTP interface."""

    database: TestDatabase
    folder: Path
    kafka: str
    slot: int = 0
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it wrote to stdout and stderr."""
        return self.folder / f"metering-{self.slot}.log"

    def launch(self) -> None:
        """Start it; `start` waits for it too."""
        environment = {
            "PATH": os.environ["PATH"],
            "SLUICE_METERING_PORT": str(self.port),
            "SLUICE_METERING_POSTGRES": self.database.dsn("metering"),
            "SLUICE_KAFKA": self.kafka,
            "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
            "SLUICE_LOG_LEVEL": "warning",
            "SLUICE_SLOT": str(self.slot),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.metering.app"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def start(self) -> None:
        """Start it and wait until it is ready: partitions assigned, fences checked."""
        self.launch()
        assert self.process is not None
        async with asyncio.timeout(STARTS_SECONDS), httpx.AsyncClient() as client:
            while True:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                try:
                    if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)

    def freeze(self) -> None:
        """Hold it still; Kafka takes it for dead after six seconds."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(20)

    @property
    def memory_mib(self) -> float:
        """The most memory it has ever had."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@asynccontextmanager
async def running(*processes: MeteringProcess) -> AsyncGenerator[None, None]:
    """Start workers; end them when the block ends."""
    try:
        for process in processes:
            await process.start()
        yield
    finally:
        for process in processes:
            if process.process is not None:
                process.kill()


async def define_meters(database: Database) -> None:
    """Two meters of the platform: a sum and a count, by region."""
    async with database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        for aggregation, path in (("sum", "calls"), ("count", None)):
            await meters.create(
                tx,
                key=f"calls_{aggregation}",
                event_type="api.call",
                aggregation=aggregation,  # type: ignore[arg-type]
                value_path=path,
                group_by=("region",),
                filters={},
                created_at=utc_now(),
                actor="bench",
            )


def events(customers: Sequence[UUID]) -> Iterator[dict[str, Any]]:
    """A tenant's events as the client library makes them."""
    for number in itertools.count():
        customer = customers[number % len(customers)]
        yield {
            "specversion": "1.0",
            "id": str(new_id()),
            "source": "product/api",
            "type": "api.call",
            "time": format_time(utc_now()),
            "subject": f"cus_{customer}",
            "userid": f"user-{number % len(customers)}",
            "data": {"calls": number % 7, "region": ("eu", "us")[number % 2], "path": "/v1/items"},
        }


def on_the_topic(tenant: UUID, event: dict[str, Any], received_at: datetime) -> bytes:
    """An event as the ingest publishes it."""
    stamps = {"receivedat": format_time(received_at), "clockoffset": 0}
    named = {"mode": "test", "tenantid": str(tenant), "datacontenttype": "application/json"}
    return json.dumps(event | named | stamps, separators=(",", ":"), sort_keys=True).encode()


def backlog(tenants: Sequence[UUID], number: int) -> dict[UUID, list[bytes]]:
    """So many events of these tenants, as they lie on the topic after requests of 1,000 each."""
    found: dict[UUID, list[bytes]] = {}
    for tenant in tenants:
        made = events([new_id() for _ in range(CUSTOMERS)])
        mine = found[tenant] = []
        left = number // len(tenants)
        while len(mine) < left:
            request = list(itertools.islice(made, min(PUBLISHED_AT_ONCE, left - len(mine))))
            received_at = utc_now()
            mine += [on_the_topic(tenant, event, received_at) for event in request]
    return found


async def publish(usage_log: UsageLog, values: dict[UUID, list[bytes]]) -> None:
    """Put a backlog on the topic, all tenants' mixed."""
    longest = max(len(mine) for mine in values.values())
    for start in range(0, longest, PUBLISHED_AT_ONCE):
        await asyncio.gather(
            *(
                usage_log.publish(tenant, mine[start : start + PUBLISHED_AT_ONCE])
                for tenant, mine in values.items()
            )
        )


class Raw(NamedTuple):
    """What a plain client that enters ids reaches.

    Attributes:
        client_seconds: its processor time for all of them, without that of making them up.
        postgres_seconds: that of the process that serves it.
    """

    per_second: float
    client_seconds: float
    postgres_seconds: float


async def raw_inserts(dsn: str, number: int) -> Raw:
    """Enter so many ids durably, none twice, in batches of 5,000."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "create table if not exists raw_id (tenant uuid not null, source text not null, "
        "id uuid not null, payload_hash bytea not null, unique (tenant, source, id))"
    )
    tenants = [new_id() for _ in range(TENANTS)]
    served_by = connection.get_server_pid()
    postgres_before = cpu_seconds(served_by)
    seconds = client_seconds = 0.0
    for _ in range(number // RAW_BATCH):
        columns = (
            [tenants[place % TENANTS] for place in range(RAW_BATCH)],
            ["product/api"] * RAW_BATCH,
            [new_id() for _ in range(RAW_BATCH)],
            [os.urandom(8) for _ in range(RAW_BATCH)],
        )
        started, client_started = time.perf_counter(), time.process_time()
        await connection.execute(
            "insert into raw_id select * from unnest($1::uuid[], $2::text[], $3::uuid[], "
            "$4::bytea[]) on conflict do nothing",
            *columns,
        )
        seconds += time.perf_counter() - started
        client_seconds += time.process_time() - client_started
    postgres_seconds = cpu_seconds(served_by) - postgres_before
    await connection.close()
    return Raw(number / seconds, client_seconds, postgres_seconds)


FENCES = f"metering.fence where consumer = 'metering' and topic = '{TOPIC}'"


@dataclass
class Counting:
    """How far the worker is, as its fences tell.

    Attributes:
        fences: where they are.
    """

    admin: Any
    fences: str = FENCES

    async def offset(self) -> int:
        """Records that are counted."""
        return int(
            await self.admin.fetchval(f"select coalesce(sum(next_offset), 0) from {self.fences}")
        )

    async def settled(self, kafka: str) -> None:
        """Wait until all that is on the topic is counted."""
        usage_log = UsageLog(kafka)
        try:
            end = sum((await usage_log.end_offsets()).values())
        finally:
            await usage_log.close()
        async with asyncio.timeout(600):
            while await self.offset() < end:
                await asyncio.sleep(POLL_SECONDS)

    async def rate_until(self, end: int) -> float:
        """Events counted per second from the first batch to the last."""
        before = await self.offset()
        while (first := await self.offset()) == before:
            await asyncio.sleep(POLL_SECONDS)
        started = time.perf_counter()
        async with asyncio.timeout(600):
            while await self.offset() < end:
                await asyncio.sleep(POLL_SECONDS)
        return (end - first) / (time.perf_counter() - started)
