"""How fast usage goes from the topic into committed aggregates, against what Postgres itself could take.

`make bench-metering` prints the rows for docs/benchmarks.md. The limit is measured in the same run, in
turn with the worker: entering the same ids, none twice, in batches of 5,000. After the worker a plain
consumer (`plain_consumer.py`) takes the same backlog. Both are frozen while it is put on the topic; the
time runs from the first batch to the last. All of it is measured again when many ids are stored.
Beside it stands the processor time for each event, which says more on a busy machine.
SLUICE_BENCH_EVENTS, SLUICE_BENCH_ROUNDS and SLUICE_BENCH_STORED_IDS make the run longer.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from deploy.local.scratch import RunningKafka
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from services.metering.usage_log import UsageLog
from tests.bench.metering import (
    POLL_SECONDS,
    STARTS_SECONDS,
    TENANTS,
    Counting,
    MeteringProcess,
    Raw,
    backlog,
    define_meters,
    publish,
    raw_inserts,
    running,
)
from tests.bench.processes import cpu_seconds_apart, tree
from tests.services.gateway.process import ROOT

EVENTS = int(os.environ.get("SLUICE_BENCH_EVENTS") or 100_000)
FEW = min(EVENTS, 100_000)
"""In backlogs whose length says nothing."""
ROUNDS = int(os.environ.get("SLUICE_BENCH_ROUNDS") or 3)
STORED_IDS = int(os.environ.get("SLUICE_BENCH_STORED_IDS") or 1_000_000)
SHARE_GOAL, MEMORY_MIB_GOAL = 0.7, 300
PLAIN_FENCES = "plain_fence"
STORED_AT_ONCE = 1_000_000

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(7_200)]


class Figure(NamedTuple):
    """Events per second, and the processor time that a program took for one of them."""

    per_second: float
    cpu_seconds: float


class Round(NamedTuple):
    """What was measured in turn."""

    raw: Raw
    worker: Figure
    plain: Figure


class Bench:
    """Backlogs for one or more workers, and for a plain consumer of the same topic.

    Attributes:
        cpu: processor seconds for an event that those took who worked off the last backlog, from
            waking up to its end; without the archiver, a program of its own.
    """

    def __init__(self, usage_log: UsageLog, admin: Any, plain: subprocess.Popen[bytes]) -> None:
        self._usage_log = usage_log
        self._counting = Counting(admin)
        self._plain = plain
        self._plain_counting = Counting(admin, PLAIN_FENCES)
        self.cpu = 0.0

    async def rate(self, *workers: MeteringProcess, events: int = EVENTS) -> float:
        """Events per second of a new backlog through these workers, which wait for work."""
        values = backlog([new_id() for _ in range(TENANTS)], events)
        processes = [worker.process for worker in workers if worker.process is not None]
        for process in (*processes, self._plain):
            process.send_signal(signal.SIGSTOP)
        await publish(self._usage_log, values)
        return await self._work_off(self._counting, processes, events)

    async def plain_rate(self, events: int = EVENTS) -> float:
        """The same of the plain consumer, through the backlog that workers had last."""
        rate = await self._work_off(self._plain_counting, [self._plain], events)
        self._plain.send_signal(signal.SIGSTOP)
        return rate

    async def _work_off(
        self, counting: Counting, processes: Sequence[subprocess.Popen[bytes]], events: int
    ) -> float:
        end = await counting.offset() + events
        before = _own_seconds(processes)
        for process in processes:
            process.send_signal(signal.SIGCONT)
        rate = await counting.rate_until(end)
        self.cpu = (_own_seconds(processes) - before) / events
        return rate


def _own_seconds(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    return sum(cpu_seconds_apart(process.pid)[0] for process in processes)


@contextmanager
def plain_consumer(
    database: TestDatabase, kafka: str
) -> Generator[subprocess.Popen[bytes], None, None]:
    """The program of `plain_consumer`, killed in the end."""
    command = [sys.executable, "-m", "tests.bench.plain_consumer", database.admin_dsn, kafka]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


async def ready(admin: Any, plain: subprocess.Popen[bytes]) -> None:
    """Wait until the plain consumer knows where it begins."""
    async with asyncio.timeout(STARTS_SECONDS):
        while not await admin.fetchval("select to_regclass($1) is not null", PLAIN_FENCES):
            assert plain.poll() is None
            await asyncio.sleep(POLL_SECONDS)


async def store_ids(admin: Any, number: int) -> None:
    """Ids of events that were counted before, as many tenants' as there are."""
    for first in range(1, number + 1, STORED_AT_ONCE):
        await admin.execute(
            """
            insert into metering.usage_event_id
                (tenant_id, mode, id_hash, payload_hash, received_day)
            select md5('tenant ' || n % 10)::uuid, 'test',
                substr(int8send(1700000000000 + n), 3) || substr(decode(md5(n::text), 'hex'), 1, 10),
                '\\x0011223344556677', current_date
            from generate_series($1::bigint, $2::bigint) n
            """,
            first,
            min(first + STORED_AT_ONCE - 1, number),
        )
    # Ids come in over weeks. What so many leave to be done when they come at once is done before the rest.
    await admin.execute("vacuum (analyze) metering.usage_event_id")
    await admin.execute("checkpoint")


async def counted_by_meters(admin: Any) -> int:
    """Events in the aggregates of the counting meter."""
    return int(
        await admin.fetchval(
            "select sum(m.event_count) from metering.usage_minute m "
            "join metering.usage_series s on s.id = m.series_id and s.tenant_id = m.tenant_id "
            "join metering.meter on meter.id = s.meter_id where meter.aggregation = 'count'"
        )
    )


async def test_from_the_topic_to_the_aggregates(
    database: TestDatabase, kafka_server: RunningKafka, tmp_path: Path
) -> None:
    kafka = kafka_server.bootstrap
    await create_topics(kafka)
    async with database.open("metering") as opened:
        await define_meters(opened)
    usage_log = UsageLog(kafka)
    worker = MeteringProcess(database, tmp_path, kafka)
    second = MeteringProcess(database, tmp_path, kafka, slot=1)
    try:
        async with database.admin() as admin, running(worker):
            start = await Counting(admin).offset()
            with plain_consumer(database, kafka) as plain:
                await ready(admin, plain)
                bench = Bench(usage_log, admin, plain)
                await bench.rate(worker, events=FEW)
                await bench.plain_rate(FEW)
                for stored in (0, STORED_IDS):
                    await store_ids(admin, stored)
                    print(f"with {stored:,} ids of before:")
                    limit = print_figures(
                        [await compare(bench, worker, database) for _ in range(ROUNDS)]
                    )
                async with running(second):
                    rate = await bench.rate(worker, second, events=FEW)
                print_row("two workers", rate, limit, bench.cpu)
            assert worker.process is not None
            archiver = cpu_seconds_apart(worker.process.pid)[1]
            sent = await Counting(admin).offset() - start
            assert await counted_by_meters(admin) == sent == 2 * ROUNDS * EVENTS + 2 * FEW
            memory = worker.memory_mib
    finally:
        await usage_log.close()
    print(f"processor time of the archiver, µs per event: {archiver / sent * 1e6:,.0f}")
    print(f"memory of the worker at its most, MiB: {memory:,.0f} (goal {MEMORY_MIB_GOAL})")


async def compare(bench: Bench, worker: MeteringProcess, database: TestDatabase) -> Round:
    """The limit, the worker and the plain consumer in turn, while nothing is archived."""
    assert worker.process is not None
    raw = await raw_inserts(database.admin_dsn, EVENTS)
    await archived(worker.process.pid)
    rate = await bench.rate(worker)
    ours = Figure(rate, bench.cpu)
    await archived(worker.process.pid)
    rate = await bench.plain_rate()
    return Round(raw, ours, Figure(rate, bench.cpu))


async def archived(pid: int) -> None:
    """Wait until a worker has no archiver beside it."""
    async with asyncio.timeout(STARTS_SECONDS):
        while len(tree(pid)) > 1:
            await asyncio.sleep(POLL_SECONDS)


def print_figures(rounds: Sequence[Round]) -> float:
    """Print the median of each, and the shares of all rounds; the limit's is returned."""
    limit = median(each.raw.per_second for each in rounds)
    client = median(each.raw.client_seconds for each in rounds) / EVENTS
    postgres = median(each.raw.postgres_seconds for each in rounds) / EVENTS
    print_row("ids entered by a plain client, in batches of 5,000", limit, limit, client)
    print(f"of Postgres for the same: {postgres * 1e6:.1f}")
    for name, found in (
        ("one worker, topic to committed aggregates", [each.worker for each in rounds]),
        ("the same by a plain consumer", [each.plain for each in rounds]),
    ):
        rate = median(each.per_second for each in found)
        print_row(name, rate, limit, median(each.cpu_seconds for each in found))
        shares = [
            mine.per_second / each.raw.per_second for mine, each in zip(found, rounds, strict=True)
        ]
        print(f"shares (goal {SHARE_GOAL}): {' '.join(f'{share:.2f}' for share in shares)}")
    return limit


def print_row(name: str, per_second: float, limit: float, cpu_seconds: float) -> None:
    share, cpu = per_second / limit, cpu_seconds * 1e6
    print(f"| {name} | {per_second:,.0f} | {share:.2f} | {cpu:.1f} |")
