"""How fast usage goes from the topic into committed aggregates, against what Postgres itself could take.

`make bench-metering` prints the rows for docs/benchmarks.md. The limit is measured in the same run, in
turn with the worker: entering the same ids, none twice, in batches of 5,000. The worker is frozen while
its backlog is put on the topic; the time runs from its first batch to its last.
Beside it stands the worker's processor time for each event, which says more on a busy machine.
SLUICE_BENCH_EVENTS, SLUICE_BENCH_ROUNDS and SLUICE_BENCH_STORED_IDS make the run longer.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from deploy.local.scratch import RunningKafka
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from services.metering.usage_log import UsageLog
from tests.bench.metering import (
    TENANTS,
    Counting,
    MeteringProcess,
    backlog,
    define_meters,
    publish,
    raw_inserts,
    running,
)
from tests.bench.processes import cpu_seconds_apart

EVENTS = int(os.environ.get("SLUICE_BENCH_EVENTS") or 100_000)
ROUNDS = int(os.environ.get("SLUICE_BENCH_ROUNDS") or 3)
STORED_IDS = int(os.environ.get("SLUICE_BENCH_STORED_IDS") or 1_000_000)
SHARE_GOAL, MEMORY_MIB_GOAL = 0.7, 300

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(7_200)]


class Bench:
    """Backlogs for one or more workers.

    Attributes:
        cpu: processor seconds that the workers took for the last backlog, from waking up to its end;
            without the archiver, a program of its own.
    """

    def __init__(self, usage_log: UsageLog, counting: Counting) -> None:
        self._usage_log = usage_log
        self._counting = counting
        self.cpu = 0.0

    async def rate(self, *workers: MeteringProcess) -> float:
        """Events per second through these workers, which wait for work."""
        values = backlog([new_id() for _ in range(TENANTS)], EVENTS)
        end = await self._counting.offset() + EVENTS
        for worker in workers:
            worker.freeze()
        await publish(self._usage_log, values)
        pids = [worker.process.pid for worker in workers if worker.process is not None]
        before = _own_seconds(pids)
        for worker in workers:
            worker.wake()
        rate = await self._counting.rate_until(end)
        self.cpu = _own_seconds(pids) - before
        return rate


def _own_seconds(pids: list[int]) -> float:
    return sum(cpu_seconds_apart(pid)[0] for pid in pids)


async def store_ids(admin: Any, number: int) -> None:
    """Ids of events that were counted before, as many tenants' as there are."""
    await admin.execute(
        """
        insert into metering.usage_event_id (tenant_id, mode, id_hash, payload_hash, received_day)
        select md5('tenant ' || n % 10)::uuid, 'test',
            substr(int8send(1700000000000 + n), 3) || substr(decode(md5(n::text), 'hex'), 1, 10),
            '\\x0011223344556677', current_date
        from generate_series(1, $1::bigint) n
        """,
        number,
    )


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
    await create_topics(kafka_server.bootstrap)
    async with database.open("metering") as opened:
        await define_meters(opened)
    usage_log = UsageLog(kafka_server.bootstrap)
    worker = MeteringProcess(database, tmp_path, kafka_server.bootstrap)
    second = MeteringProcess(database, tmp_path, kafka_server.bootstrap, slot=1)
    try:
        async with database.admin() as admin, running(worker):
            bench = Bench(usage_log, Counting(admin))
            start = await Counting(admin).offset()
            await bench.rate(worker)
            limits, rates = [], []
            cpu = 0.0
            for _ in range(ROUNDS):
                limits.append(await raw_inserts(database.admin_dsn, EVENTS))
                rates.append(await bench.rate(worker))
                cpu += bench.cpu
            limit, rate = sum(limits) / ROUNDS, sum(rates) / ROUNDS
            print_row("ids entered by a plain client, in batches of 5,000", limit, limit)
            print_row("one worker, topic to committed aggregates", rate, limit)
            await store_ids(admin, STORED_IDS)
            print_row(f"the same with {STORED_IDS:,} ids more", await bench.rate(worker), limit)
            async with running(second):
                print_row("two workers", await bench.rate(worker, second), limit)
            memory = worker.memory_mib
            assert worker.process is not None
            archiver = cpu_seconds_apart(worker.process.pid)[1]
            sent = await Counting(admin).offset() - start
            assert await counted_by_meters(admin) == sent == (ROUNDS + 3) * EVENTS
    finally:
        await usage_log.close()
    print(f"| processor time of the worker, µs per event | {cpu / ROUNDS / EVENTS * 1e6:,.0f} | |")
    print(f"| processor time of the archiver, µs per event | {archiver / sent * 1e6:,.0f} | |")
    print(f"| memory of the worker at its most, MiB | {memory:,.0f} | |")
    print(f"rounds: {' '.join(f'{a / b:.2f}' for a, b in zip(rates, limits, strict=True))}")
    print(
        f"share {rate / limit:.2f} (goal {SHARE_GOAL}), {memory:.0f} MiB (goal {MEMORY_MIB_GOAL})"
    )


def print_row(name: str, per_second: float, limit: float) -> None:
    print(f"| {name} | {per_second:,.0f} | {per_second / limit:.2f} |")
