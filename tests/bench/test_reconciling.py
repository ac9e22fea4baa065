"""How long a reconciliation takes, and what it holds: of a quarter of the lines, then of all of them.

`make bench-ledger` prints the rows for docs/benchmarks.md. Every line is a payment that is booked, one in
a thousand with another amount, and a payout takes each thousand away. What must not grow with the lines:
the time for each of them, the memory of the process, and how long others in it wait at a time.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.stripe_sync import (
    StatementBalance,
    StatementLine,
    StatementPayout,
    StripeStatement,
    statement_digest,
)
from libs.db.pool import Cause, Database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import chart, posting, reconciling, statements, store_reconciliations
from services.ledger.entries import Entry, credit, debit
from services.ledger.reconciling_sides import Terms
from services.ledger.store import Booking

LINES = int(os.environ.get("SLUICE_BENCH_LINES") or 4_000)
LINES_PER_PAYOUT = 1_000
ENTRIES_PER_PART = 400
"""As stripe_sync tells them."""
BOOKED_AT_ONCE = 2_000
ACCOUNT = "acct_bench"
TERMS = Terms(
    every=timedelta(days=1), window=timedelta(days=30), settles_in=timedelta(0), repairs=False
)
LOOKS_SECONDS = 0.001
MIB = 2**10
"""In KiB, of which /proc tells."""

T = TypeVar("T")

pytestmark = pytest.mark.timeout(1_800)


@dataclass
class Account:
    """A Stripe account: what Stripe lists of it."""

    owner: UUID = field(default_factory=new_id)
    lines: list[StatementLine] = field(default_factory=list)
    payouts: list[StatementPayout] = field(default_factory=list)

    def fill(self, number: int) -> None:
        """So many payments of the day before yesterday, and the payouts that took them away."""
        for start in range(0, number, LINES_PER_PAYOUT):
            payout = f"po_{start}"
            paid = range(start, min(start + LINES_PER_PAYOUT, number))
            self.lines += [self._line("charge", f"{at}", f"ch_{at}", at + 1, payout) for at in paid]
            amount_minor = sum(at + 1 for at in paid)
            left = self._line("payout", payout, payout, -amount_minor, payout)
            self.lines.append(left)
            self.payouts.append(
                StatementPayout(
                    stripe_payout_id=payout,
                    stripe_balance_transaction_id=left.stripe_balance_transaction_id,
                    amount_minor=amount_minor,
                    currency="EUR",
                    status="paid",
                    arrival_on=utc_now().date(),
                )
            )

    def _line(
        self, kind: str, number: str, source_id: str, amount_minor: int, payout: str
    ) -> StatementLine:
        created_at = utc_now() - timedelta(days=2)
        return StatementLine(
            stripe_balance_transaction_id=f"txn_{number}",
            kind=kind,
            source_id=source_id,
            amount_minor=amount_minor,
            fee_minor=0,
            net_minor=amount_minor,
            currency="EUR",
            created_at=created_at,
            available_at=created_at,
            payout_id=payout,
        )

    async def book(self, ledger: Database) -> None:
        """Book every line; the first that left with each payout with a cent too much."""
        scope = Scope((self.owner,), "test", posting.BOOKS)
        async with ledger.transaction(scope) as tx:
            await posting.open_books(tx)
        for lines in _stretches(self.lines, BOOKED_AT_ONCE):
            async with ledger.transaction(scope) as tx:
                await posting.book(tx, [self._booking(line) for line in lines])

    def _booking(self, line: StatementLine) -> Booking:
        of_payment = line.kind == "charge"
        about = f"payment:{ACCOUNT}:{line.source_id}"
        if not of_payment:
            about = f"balance_transaction:{ACCOUNT}:{line.stripe_balance_transaction_id}"
        is_wrong = of_payment and line.amount_minor % LINES_PER_PAYOUT == 1
        minor = line.amount_minor + is_wrong
        lines = (
            debit(chart.clearing(ACCOUNT), minor, "EUR"),
            credit(chart.RECEIVABLE, minor, "EUR"),
        )
        now = utc_now()
        entry = Entry("tenant", about, "bench", lines)
        return Booking(new_id(), self.owner, entry, now, now, Cause(new_id(), new_id()))

    def statement(self, statement_id: UUID) -> list[StripeStatement]:
        """What Stripe lists, in parts."""
        now = utc_now()
        entries = [*self.lines, *self.payouts]
        parts = list(_stretches(entries, ENTRIES_PER_PART))
        digest = statement_digest(self.lines, self.payouts)
        return [
            StripeStatement(
                statement_id=statement_id,
                account=ACCOUNT,
                listed_from=now - TERMS.window,
                listed_to=now,
                part=number,
                parts=len(parts),
                line_count=len(self.lines),
                payout_count=len(self.payouts),
                digest=digest,
                lines=tuple(each for each in part if isinstance(each, StatementLine)),
                payouts=tuple(each for each in part if isinstance(each, StatementPayout)),
                balances=(StatementBalance(currency="EUR", available_minor=0, pending_minor=0),),
                listed_at=now,
            )
            for number, part in enumerate(parts, 1)
        ]


def _stretches(entries: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    return (entries[at : at + length] for at in range(0, len(entries), length))


@dataclass
class Watched:
    """What a piece of work took.

    Attributes:
        held_seconds: the longest time for which nothing else in the process had its turn.
        grown_mib: how much more memory it had at its most than before.
    """

    seconds: float = 0.0
    held_seconds: float = 0.0
    grown_mib: float = 0.0


@asynccontextmanager
async def watched() -> AsyncGenerator[Watched, None]:
    """Watch what is done within the block."""
    found = Watched()
    _count_the_peak_anew()
    before = _status_kib("VmRSS")

    async def look() -> None:
        while True:
            since = time.perf_counter()
            await asyncio.sleep(LOOKS_SECONDS)
            late = time.perf_counter() - since - LOOKS_SECONDS
            found.held_seconds = max(found.held_seconds, late)

    beside = asyncio.create_task(look())
    started = time.perf_counter()
    yield found
    found.seconds = time.perf_counter() - started
    found.grown_mib = (_status_kib("VmHWM") - before) / MIB
    beside.cancel()


def _count_the_peak_anew() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


async def take_statement(ledger: Database, account: Account, statement_id: UUID) -> None:
    """Take what Stripe lists, part by part, as it comes."""
    for part in account.statement(statement_id):
        event = wrap(
            part,
            tenant_id=account.owner,
            mode="test",
            source="stripe_sync",
            effective_at=part.listed_at,
        )
        async with ledger.tenant(account.owner, "test") as tx:
            await statements.take_part(tx, event)


async def run_to_its_end(ledger: Database, account: Account, run_id: UUID) -> int:
    """Bring a run to its end; in how many steps, each of which commits."""
    steps = 1
    while await reconciling.advance(ledger, account.owner, "test", run_id, TERMS, utc_now()):
        steps += 1
    return steps


@pytest.mark.parametrize("share", [0.25, 1.0])
async def test_an_account(database: TestDatabase, share: float) -> None:
    account = Account()
    account.fill(int(LINES * share))
    lines = len(account.lines)
    async with database.open("ledger") as ledger:
        await account.book(ledger)
        now = utc_now()
        async with ledger.tenant(account.owner, "test") as tx:
            run_id = await reconciling.start(
                tx, ACCOUNT, now - TERMS.window, now, requested_by=None, now=now
            )
            row = await store_reconciliations.find(tx, run_id)
        assert row is not None
        async with watched() as taking:
            await take_statement(ledger, account, row["statement_id"])
        async with watched() as comparing:
            steps = await run_to_its_end(ledger, account, run_id)
        async with ledger.tenant(account.owner, "test") as tx:
            row = await store_reconciliations.find(tx, run_id)
    assert row is not None
    assert (row["state"], row["breaks_found"]) == ("completed", len(account.payouts))
    assert row["matched_count"] == lines - len(account.payouts)
    print(
        f"| {lines:,} lines | {taking.seconds:.1f} s | {taking.grown_mib:.0f} MiB "
        f"| {taking.held_seconds * 1000:.0f} ms | {comparing.seconds:.1f} s | {steps} steps "
        f"| {comparing.grown_mib:.0f} MiB | {comparing.held_seconds * 1000:.0f} ms |"
    )
