"""How fast the ledger posts, against COPY of the very same rows, and how soon it answers.

`make bench-ledger` prints the rows for docs/benchmarks.md. The workload is the service's own path:
bytes of a Kafka batch are decoded, validated and posted with row-level security, chain and outbox in
one commit, a tenth of the records told again; every account was used before. COPY writes the rows that
came of it into tables with the same columns and indexes and nothing else: no keys taken, no balances,
no chain, no checks. Rounds of both take turns, and after each the books are verified. Beside the time
stands the processor time of both sides, process and Postgres, which other programs change less.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import pytest

from cli.ledger_proof import LedgerProof
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import accounts, chart
from services.ledger.books import Reader
from tests.bench.ledger_books import ACCOUNTS, START, TENANTS, grow_account
from tests.bench.ledger_worker import KEYS
from tests.conftest import ROOT

ROUNDS = int(os.environ.get("SLUICE_BENCH_ROUNDS") or 1)
BATCHES = int(os.environ.get("SLUICE_BENCH_BATCHES") or 1)
USED = int(os.environ.get("SLUICE_BENCH_ACCOUNTS") or 100)
"""Accounts of each tenant that were used before; `make bench-ledger` uses all of them."""
HOT_POSTINGS = int(os.environ.get("SLUICE_BENCH_POSTINGS") or 3_000)
READS = min(300, HOT_POSTINGS // 100)
SHARE_GOAL, SHARE_FLOOR = 0.50, 0.35

Figures = dict[str, Any]

pytestmark = pytest.mark.timeout(3_600)


class Process:
    """A `tests.bench.ledger_worker`, which does what it is told when it is told."""

    def __init__(self, dsn: str, number: int) -> None:
        command = [sys.executable, "-m", "tests.bench.ledger_worker", dsn, str(number), str(USED)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, task: str) -> None:
        """Begin a task."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()

    def answer(self) -> Figures:
        """Its figures, when it is done."""
        assert self._process.stdout is not None
        found: Figures = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        """No more tasks."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@contextmanager
def processes(database: TestDatabase, number: int) -> Generator[list[Process], None, None]:
    """So many of them, each with tenants of its own."""
    started = [Process(database.admin_dsn, each) for each in range(number)]
    try:
        yield started
    finally:
        for process in started:
            process.end()


def all_do(workers: Sequence[Process], task: str) -> Figures:
    """Let all do the same at once: the longest time, and the sums of the rest."""
    for worker in workers:
        worker.ask(task)
    found = [worker.answer() for worker in workers]
    return {
        "seconds": max(each.get("seconds", 0.0) for each in found),
        "cpu_seconds": sum(each.get("cpu_seconds", 0.0) for each in found),
        "entries": sum(each.get("entries", 0) for each in found),
    }


async def faults(*connections: Any) -> tuple[list[str], int, float]:
    """What verifying all books says, how many postings they have, and how long it took."""
    proof = LedgerProof(*connections)
    books = await proof.books(None, {})
    started = time.perf_counter()
    found = [await proof.check(book, {}, lambda _: None) for book in books]
    seconds = time.perf_counter() - started
    return [f for each in found for f in each.faults], sum(b.postings for b in books), seconds


@pytest.mark.parametrize("number", [1, 2])
async def test_posting_against_copy(database: TestDatabase, number: int) -> None:
    figures: dict[str, list[Figures]] = {"spread": [], "hot": []}
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger")
        for table in KEYS:
            await admin.execute(f"create table copy_of_{table} (like {table} including indexes)")
        with processes(database, number) as workers:
            all_do(workers, "begin")
            await admin.execute("analyze")
            for _ in range(ROUNDS):
                for kind in ("spread", "hot"):
                    posted = all_do(workers, f"post {kind} {BATCHES}")
                    figures[kind].append(posted | {"copy": all_do(workers, "copy")})
                    assert posted["entries"] > 0
                found, _, _ = await faults(admin)
                assert found == []
        entries, told = await admin.fetchrow(
            "select (select count(*) from journal_entry), (select count(*) from outbox)"
        )
        assert entries == told
    print(f"{number} process(es), {TENANTS} tenants each, {USED:,} of {ACCOUNTS:,} accounts in use")
    for kind, rounds in figures.items():
        rate = statistics.median(each["entries"] / each["seconds"] for each in rounds)
        limit = statistics.median(each["entries"] / each["copy"]["seconds"] for each in rounds)
        share = statistics.median(each["copy"]["seconds"] / each["seconds"] for each in rounds)
        of_cpu = statistics.median(
            each["copy"]["cpu_seconds"] / each["cpu_seconds"] for each in rounds
        )
        print(f"| {kind} | {limit:,.0f} | {rate:,.0f} | {share:.2f} | {of_cpu:.2f} |")
    print(f"(goal {SHARE_GOAL}, never under {SHARE_FLOOR})")


async def test_reads_of_a_large_account_and_verifying(database: TestDatabase) -> None:
    acme, chance = new_id(), random.Random(2)
    axes: tuple[Literal["effective", "booked"], ...] = ("effective", "booked")
    async with (
        database.open("ledger") as ledger,
        database.admin() as admin,
        database.admin() as beside,
    ):
        started = time.perf_counter()
        await grow_account(ledger, admin, acme, HOT_POSTINGS)
        print(f"| grown | {HOT_POSTINGS:,} postings | {time.perf_counter() - started:.0f} s |")
        await admin.execute("analyze")
        reader = Reader(ledger, acme, "test", "platform")
        seconds: dict[str, list[float]] = {"effective": [], "booked": [], "statement": []}
        for _ in range(READS):
            at = START + timedelta(seconds=chance.randrange(HOT_POSTINGS))
            for axis in axes:
                since = time.perf_counter()
                await accounts.balances(reader, chart.BANK.code, "EUR", at, axis)
                seconds[axis].append(time.perf_counter() - since)
            before = chance.randrange(100, HOT_POSTINGS)
            since = time.perf_counter()
            await accounts.statement(reader, chart.BANK.code, "EUR", before=before, limit=51)
            seconds["statement"].append(time.perf_counter() - since)
        for what, each in seconds.items():
            each.sort()
            median, p99 = each[len(each) // 2], each[len(each) * 99 // 100]
            print(f"| {what} | {median * 1000:.1f} | {p99 * 1000:.1f} |")
        found, postings, lasted = await faults(admin, beside)
        assert found == []
        print(f"| verified | {postings:,} postings | {postings / lasted:,.0f} per second |")
