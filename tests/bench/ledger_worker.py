"""One process that posts, and copies the very same rows afterwards: `python -m tests.bench.ledger_worker`.

Its event loop is the services', and so is how its garbage collector is set.

It takes a task a line on its standard input and answers each with a line of JSON.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

import uvloop

from libs.observability.tracing import configure_tracing
from libs.testing.databases import TestDatabase
from libs.web.serve import YOUNG_OBJECTS_MAX
from tests.bench.ledger_books import Worker, Workload, place_of, use_every_account
from tests.bench.processes import cpu_seconds

KEYS = {"journal_entry": "id", "posting": "(entry_id, line)", "outbox": "event_id"}
"""What COPY writes, and what tells the rows of each table apart."""


class Measured:
    """The tasks of one process, each with its time and the processor time of both sides."""

    def __init__(self, ledger: Any, admin: Any, number: int, accounts: int) -> None:
        self._ledger, self._admin, self._accounts = ledger, admin, accounts
        self._workload = Workload(number)
        self._worker = Worker(ledger, place_of(number))
        self._marks: dict[str, set[Any]] = {table: set() for table in KEYS}
        self._rows: dict[str, list[list[Any]]] = {}
        self._batches = 0

    async def begin(self) -> dict[str, Any]:
        """Open the books and use every account."""
        await self._worker.begin()
        await use_every_account(self._ledger, self._workload.tenants, self._accounts)
        await self._worker.post([self._workload.batch(self._worker.place, hot=True)])
        await self._keep_new_rows()
        return {}

    async def post(self, kind: str, batches: int) -> dict[str, Any]:
        """Post batches of records in which accounts are hot or spread."""
        records = [
            self._workload.batch(self._worker.place, hot=kind == "hot") for _ in range(batches)
        ]
        async with self._ledger.transaction() as tx:
            backend = await tx.fetchval("select pg_backend_pid()")
        found = await self._measure(self._worker.post(records), backend)
        await self._keep_new_rows()
        self._batches = batches
        return found | {"entries": len(self._rows["journal_entry"])}

    async def copy(self) -> dict[str, Any]:
        """COPY the rows that came of the last batches, in as many commits."""
        backend = await self._admin.fetchval("select pg_backend_pid()")
        return await self._measure(self._copy(), backend)

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
                self._workload.tenants,
            )
            self._rows[table] = [list(r)[1:] for r in found if r["key"] not in self._marks[table]]
            self._marks[table] |= {row["key"] for row in found}

    async def _measure(self, work: Awaitable[None], backend: int) -> dict[str, Any]:
        # The rows that are kept here are no part of the service: its collector does not look at them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS_MAX)
        cpu = time.process_time() + cpu_seconds(backend)
        started = time.perf_counter()
        await work
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "cpu_seconds": time.process_time() + cpu_seconds(backend) - cpu,
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
