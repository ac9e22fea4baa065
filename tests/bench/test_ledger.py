"""How fast the ledger posts, against COPY of the very same rows, and how soon it answers.

`make bench-ledger` prints the rows for docs/benchmarks.md. The workload is the service's own path:
bytes of a Kafka batch are decoded, validated and posted with row-level security, chain and outbox in
one commit, a tenth of the records told again. COPY writes the rows that came of it into tables with
the same columns and indexes and nothing else: no keys taken, no balances, no chain, no checks. Rounds
of both take turns, and after each the books are verified.
"""

import os
import random
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from cli.ledger_proof import LedgerProof
from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.stripe_sync import PaymentSucceeded
from libs.db.pool import Cause, Database
from libs.ids import new_id
from libs.messaging.apply import Applier
from libs.messaging.records import TYPE_HEADER, Record
from libs.testing.databases import TestDatabase
from services.ledger import accounts, chart, posting
from services.ledger.books import Reader
from services.ledger.entries import Entry, credit, debit
from services.ledger.handlers import HANDLERS
from services.ledger.store import Booking

ROUNDS = int(os.environ.get("SLUICE_BENCH_ROUNDS") or 1)
BATCHES = int(os.environ.get("SLUICE_BENCH_BATCHES") or 1)
HOT_POSTINGS = int(os.environ.get("SLUICE_BENCH_POSTINGS") or 3_000)
"""By themselves so few that every run of the tests does it; `make bench-ledger` sets more."""

BATCH = 1_000
TENANTS, ACCOUNTS = 20, 10_000
READS = min(300, HOT_POSTINGS // 100)
SHARE_GOAL, SHARE_FLOOR = 0.50, 0.35
START = datetime(2026, 1, 1, tzinfo=UTC)
COPIED = ("journal_entry", "posting", "outbox")

pytestmark = pytest.mark.timeout(1_800)


class Workload:
    """Batches of records: payments of many tenants, a tenth of them told again."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._tenants = [new_id() for _ in range(TENANTS)]
        self._told: list[PaymentSucceeded] = []
        self._owners: list[UUID] = []
        self._offset = 0

    def batch(self, *, hot: bool) -> list[Record]:
        """The next batch, in which accounts are hot or spread."""
        records = []
        for _ in range(BATCH):
            if self._told and self._chance.random() < 0.1:
                at = self._chance.randrange(len(self._told))
                records.append(self._record(self._owners[at], self._told[at]))
                continue
            owner = self._chance.choice(self._tenants)
            account = "acct_hot" if hot else f"acct_{self._chance.randrange(ACCOUNTS)}"
            self._told.append(_payment(account, self._chance.randrange(1, 10**6)))
            self._owners.append(owner)
            records.append(self._record(owner, self._told[-1]))
        return records

    def _record(self, owner: UUID, fact: PaymentSucceeded) -> Record:
        event = wrap(fact, tenant_id=owner, mode="test", source="stripe_sync", effective_at=START)
        self._offset += 1
        return Record(
            "payments.events",
            0,
            self._offset,
            utc_now(),
            str(owner).encode(),
            event.model_dump_json().encode(),
            ((TYPE_HEADER, event.type.encode()),),
        )


def _payment(account: str, amount_minor: int) -> PaymentSucceeded:
    return PaymentSucceeded(
        payment_id=new_id(),
        account=account,
        collected_by="platform",
        customer_id=new_id(),
        stripe_payment_intent_id=None,
        stripe_charge_id=f"ch_{new_id().hex}",
        stripe_invoice_id="in_1",
        amount_minor=amount_minor,
        currency="EUR",
        paid_at=START,
    )


async def post(ledger: Database, batches: Sequence[list[Record]]) -> float:
    """Seconds that the service's own path takes for the batches."""
    applier = Applier("ledger", HANDLERS)
    started = time.perf_counter()
    for batch in batches:
        async with ledger.transaction() as tx:
            await applier.apply(tx, batch)
    return time.perf_counter() - started


async def copy(admin: Any, rows: dict[str, list[list[Any]]]) -> float:
    """Seconds that COPY takes for as many commits of the same rows."""
    started = time.perf_counter()
    for at in range(BATCHES):
        async with admin.transaction():
            for table in COPIED:
                size = -(-len(rows[table]) // BATCHES)
                await admin.copy_records_to_table(
                    f"copy_of_{table}", records=rows[table][at * size : (at + 1) * size]
                )
    return time.perf_counter() - started


async def rows_since(admin: Any, marks: dict[str, set[Any]]) -> dict[str, list[list[Any]]]:
    """The rows of each table that came since the last call."""
    keys = {"journal_entry": "id", "posting": "(entry_id, line)", "outbox": "event_id"}
    rows = {}
    for table in COPIED:
        found = await admin.fetch(f"select {keys[table]} as key, t.* from {table} t")
        fresh = [list(row)[1:] for row in found if row["key"] not in marks[table]]
        marks[table] |= {row["key"] for row in found}
        rows[table] = fresh
    return rows


async def faults(admin: Any) -> tuple[list[str], int, float]:
    """What verifying all books says, how many postings they have, and how long it took."""
    proof = LedgerProof(admin)
    books = await proof.books(None, {})
    started = time.perf_counter()
    found = [await proof.check(book, {}, lambda _: None) for book in books]
    seconds = time.perf_counter() - started
    return [f for each in found for f in each.faults], sum(b.postings for b in books), seconds


async def test_posting_against_copy(database: TestDatabase) -> None:
    workload = Workload(1)
    shares: dict[str, list[float]] = {"spread": [], "hot": []}
    rates: dict[str, list[float]] = {"spread": [], "hot": [], "copy": []}
    async with database.open("ledger") as ledger, database.admin() as admin:
        await admin.execute("set search_path = ledger")
        for table in COPIED:
            await admin.execute(f"create table copy_of_{table} (like {table} including indexes)")
        await post(ledger, [workload.batch(hot=hot) for hot in (True, False)])
        await admin.execute("analyze")
        marks: dict[str, set[Any]] = {table: set() for table in COPIED}
        await rows_since(admin, marks)
        for _ in range(ROUNDS):
            for kind in ("spread", "hot"):
                batches = [workload.batch(hot=kind == "hot") for _ in range(BATCHES)]
                posted = await post(ledger, batches)
                rows = await rows_since(admin, marks)
                copied = await copy(admin, rows)
                entries = len(rows["journal_entry"])
                shares[kind].append(copied / posted)
                rates[kind].append(entries / posted)
                rates["copy"].append(entries / copied)
            found, _, _ = await faults(admin)
            assert found == []
            assert len(marks["journal_entry"]) == len(marks["outbox"])
    print(f"| COPY of the same rows | {statistics.median(rates['copy']):,.0f} | 1 |")
    for kind in ("spread", "hot"):
        print(
            f"| posted, {kind} | {statistics.median(rates[kind]):,.0f} "
            f"| {statistics.median(shares[kind]):.2f} |"
        )
    print(f"(goal {SHARE_GOAL}, never under {SHARE_FLOOR})")


async def test_reads_of_a_large_account_and_verifying(database: TestDatabase) -> None:
    acme, chance = new_id(), random.Random(2)
    async with database.open("ledger") as ledger, database.admin() as admin:
        for start in range(0, HOT_POSTINGS, BATCH):
            async with ledger.tenant(acme, "test", books=("platform",)) as tx:
                await posting.book(tx, [_transfer(acme, start + at) for at in range(BATCH)])
            if start == BATCH:
                await admin.execute("analyze")
        await admin.execute("analyze")
        reader = Reader(ledger, acme, "test", "platform")
        seconds: dict[str, list[float]] = {"effective": [], "booked": [], "statement": []}
        for _ in range(READS):
            at = START + timedelta(seconds=chance.randrange(HOT_POSTINGS))
            for axis in ("effective", "booked"):
                since = time.perf_counter()
                await accounts.balances(reader, chart.BANK.code, "EUR", at, axis)  # type: ignore[arg-type]
                seconds[axis].append(time.perf_counter() - since)
            since = time.perf_counter()
            before = chance.randrange(100, HOT_POSTINGS)
            await accounts.statement(reader, chart.BANK.code, "EUR", before=before, limit=51)
            seconds["statement"].append(time.perf_counter() - since)
        for what, each in seconds.items():
            each.sort()
            print(
                f"| {what} | {each[len(each) // 2] * 1000:.1f} | {each[len(each) * 99 // 100] * 1000:.1f} |"
            )
        found, postings, lasted = await faults(admin)
        assert found == []
        print(f"| verified | {postings:,} postings | {postings / lasted:,.0f} per second |")


def _transfer(tenant_id: UUID, number: int) -> Booking:
    lines = (debit(chart.BANK, number + 1, "EUR"), credit(chart.SUSPENSE, number + 1, "EUR"))
    at = START + timedelta(seconds=number)
    return Booking(
        id=new_id(),
        tenant_id=tenant_id,
        entry=Entry("platform", f"k{number}", "bench", lines),
        effective_at=at - timedelta(hours=number % 100 == 0),
        booked_at=at,
        cause=Cause(new_id(), new_id()),
    )
