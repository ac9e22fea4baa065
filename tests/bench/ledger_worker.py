"""One process that posts, and copies the very same rows afterwards: `python -m tests.bench.ledger_worker`.

Its event loop is the services', and so is how its garbage collector is set.

It takes a task a line on its standard input and answers each with a line of JSON.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from libs.messaging.records import Record
from libs.observability.tracing import configure_tracing
from libs.testing.databases import TestDatabase
from services.ledger.app import LANES, YOUNG_OBJECTS_MAX
from tests.bench.ledger_books import TENANTS, Worker, Workload, places_of, use_every_account
from tests.bench.processes import cpu_seconds

KEYS = {"journal_entry": "id", "posting": "(entry_id, line)", "outbox": "event_id"}
"""What COPY writes, and what tells the rows of each table apart."""


class Measured:
    """The tasks of one process, each with its time and the processor time of both sides."""

    def __init__(self, ledger: Any, admin: Any, number: int, accounts: int) -> None:
        self._ledger, self._admin, self._accounts = ledger, admin, accounts
        lanes = range(number * LANES, number * LANES + LANES)
        self._workloads = [Workload(lane, TENANTS // LANES) for lane in lanes]
        self._tenants = [tenant for load in self._workloads for tenant in load.tenants]
        self._worker = Worker(ledger, places_of(number))
        self._marks: dict[str, set[Any]] = {table: set() for table in KEYS}
        self._rows: dict[str, list[list[Any]]] = {}
        self._batches = 0

    async def begin(self) -> dict[str, Any]:
        """Open the books and use every account."""
        await self._worker.begin()
        await use_every_account(self._ledger, self._tenants, self._accounts)
        await self._worker.post(self._batches_of("hot", 1))
        await self._keep_new_rows()
        return {}

    async def post(self, kind: str, batches: int) -> dict[str, Any]:
        """Post as many batches in each lane, of records in which accounts are hot or spread."""
        records = self._batches_of(kind, batches)
        async with AsyncExitStack() as open_at_once:
            lanes = [
                await open_at_once.enter_async_context(self._ledger.transaction())
                for _ in range(LANES)
            ]
            backends = [await tx.fetchval("select pg_backend_pid()") for tx in lanes]
        found = await self._measure(self._worker.post(records), backends)
        await self._keep_new_rows()
        self._batches = batches * LANES
        return found | {"entries": len(self._rows["journal_entry"])}

    async def copy(self) -> dict[str, Any]:
        """COPY the rows that came of the last batches, in as many commits."""
        backend = await self._admin.fetchval("select pg_backend_pid()")
        return await self._measure(self._copy(), [backend])

    def _batches_of(self, kind: str, batches: int) -> list[list[list[Record]]]:
        """So many batches of each lane."""
        return [
            [load.batch(place, hot=kind == "hot") for _ in range(batches)]
            for load, place in zip(self._workloads, self._worker.places, strict=True)
        ]

    async def _copy(self) -> None:
        for at in range(self._batches):
            async with self._admin.transaction():
                for table, rows in self._rows.items():
                    size = -(-len(rows) // self._batches)
                    await self._admin.copy_records_to_table(
                        f"copy_of_{table}", records=rows[at * size : (at + 1) * size]
                    )

    async def _keep_new_rows(self) -> None:
        for table, key in KEYS.items():
            found = await self._admin.fetch(
                f"select {key} as key, t.* from {table} t where tenant_id = any($1::uuid[])",
                self._tenants,
            )
            self._rows[table] = [list(r)[1:] for r in found if r["key"] not in self._marks[table]]
            self._marks[table] |= {row["key"] for row in found}

    async def _measure(self, work: Awaitable[None], backends: Sequence[int]) -> dict[str, Any]:
        # The rows that are kept here are no part of the service: its collector does not look at them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS_MAX)
        cpu = time.process_time() + sum(map(cpu_seconds, backends))
        started = time.perf_counter()
        await work
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "cpu_seconds": time.process_time() + sum(map(cpu_seconds, backends)) - cpu,
        }


async def main(dsn: str, number: int, accounts: int) -> None:
    """Do task after task until the input ends."""
    configure_tracing("ledger", None)
    database = TestDatabase(dsn)
    async with database.open("ledger") as ledger, database.admin() as admin:
        await admin.execute("set search_path = ledger")
        measured = Measured(ledger, admin, number, accounts)
        for line in sys.stdin:
            match line.split():
                case ["begin"]:
                    answer = await measured.begin()
                case ["post", kind, batches]:
                    answer = await measured.post(kind, int(batches))
                case _:
                    answer = await measured.copy()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
