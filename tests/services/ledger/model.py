"""The service's book beside a plain one: every step is done to both, and both must answer alike.

A machine of Hypothesis draws the steps: entries of any time, told again, told in other words, many at
once, taken back, taken back by two at once. Steps that happen at the same time may be taken in any
order, but the answers and the chain must be those of one order.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structlog.testing import capture_logs

from cli.ledger_proof import LedgerProof
from ledger.facts import START
from ledger.reference import ConflictError, Posting, ReferenceEntry, ReferenceLedger
from libs.db.pool import Cause, Database, open_database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import accounts, chart, posting, reversal
from services.ledger.books import Reader
from services.ledger.entries import Entry, Line
from services.ledger.reversal import AlreadyReversedError
from services.ledger.store import Booking, SourceKeyConflictError

ACCOUNTS = [chart.BANK, chart.SUSPENSE, chart.RECEIVABLE, chart.clearing("acct_1")]
CURRENCIES = ["EUR", "JPY"]
BOTH = ("platform", "tenant")
HOURS_LOOKED_AT = (-1, 17, 10**4)
MANY_POSTINGS = 1_100
"""More than the ledger adds up in one of its blocks."""

Move = tuple[Sequence[chart.Account], int, str]
Drawn = tuple[int, Sequence[Move], int, int]
"""Number of the key, moves, and the hours at which the entry holds and was recorded."""

MOVES = st.lists(
    st.tuples(st.permutations(ACCOUNTS), st.integers(1, 2**40), st.sampled_from(CURRENCIES)),
    min_size=1,
    max_size=3,
)
HOURS = st.integers(-50, 50)
ENTRIES = st.tuples(st.integers(0, 12), MOVES, HOURS, st.integers(0, 50))
BATCHES = st.lists(ENTRIES, min_size=1, max_size=5)


def lines_of(moves: Sequence[Move]) -> tuple[Line, ...]:
    """Each move debits its first account and credits its second."""
    return tuple(
        line
        for (debited, credited, *_), amount, currency in moves
        for line in (
            Line(debited, "debit", amount, currency),
            Line(credited, "credit", amount, currency),
        )
    )


def plain(lines: tuple[Line, ...]) -> tuple[Posting, ...]:
    """The same for the reference."""
    return tuple((each.account.code, each.side, each.amount_minor, each.currency) for each in lines)


class World:
    """A ledger's database with an event loop of its own, for steps that are no coroutines."""

    def __init__(self, runner: asyncio.Runner, ledger: Database, admin: asyncpg.Connection) -> None:
        self._runner = runner
        self.ledger = ledger
        self.admin = admin

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine."""
        return self._runner.run(work)


@contextmanager
def world_of(database: TestDatabase) -> Generator[World, None, None]:
    """The ledger's database, until the block ends."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        ledger = runner.run(open_database(database.dsn("ledger"), "ledger"))
        admin = runner.run(asyncpg.connect(database.admin_dsn))
        try:
            # Refusals are wanted here, and each would be told with its stack.
            with capture_logs():
                yield World(runner, ledger, admin)
        finally:
            runner.run(admin.close())
            runner.run(ledger.close())


class Books(RuleBasedStateMachine):
    """One book of a new tenant, twice."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.scope = Scope((new_id(),), "test", BOTH)
        self.reference = ReferenceLedger()
        self.told: list[Sequence[Drawn]] = []
        self.grown = 0

    @rule(batch=BATCHES)
    def book(self, batch: Sequence[Drawn]) -> None:
        """Both book a batch, or both refuse it."""
        self.told.append(batch)
        self._all_at_once([batch])

    @precondition(lambda self: self.told)
    @rule(number=st.integers(0, 30))
    def tell_again(self, number: int) -> None:
        """What was told before, refused or not, once more."""
        self._all_at_once([self.told[number % len(self.told)]])

    @rule(batches=st.lists(BATCHES, min_size=2, max_size=3))
    def book_at_once(self, batches: list[Sequence[Drawn]]) -> None:
        """Several callers book at the same time."""
        self._all_at_once(batches)

    @precondition(lambda self: self.grown < 2 and len(self.told) % 3 == 2)
    @rule(held=HOURS)
    def grow(self, held: int) -> None:
        """An entry with so many postings that accounts are added up in blocks from then on."""
        self.grown += 1
        moves = [(ACCOUNTS[:2], amount + 1, "EUR") for amount in range(MANY_POSTINGS)]
        self._all_at_once([[(1000 + self.grown, moves, held, 0)]])

    @precondition(lambda self: self.reference.entries)
    @rule(number=st.integers(0, 30), held=HOURS, callers=st.integers(1, 2))
    def reverse(self, number: int, held: int, callers: int) -> None:
        """An entry is taken back, perhaps by two at once: one of them does, unless it is done."""
        keys = list(self.reference.entries)
        key = keys[number % len(keys)]
        effective_at, now = START + timedelta(hours=held), START + timedelta(days=9)
        expected = [self.reference.reverse(key, effective_at, now) for _ in range(callers)]
        original = self.world.run(self._id_of(key))
        work = [self._reverse(original, effective_at, now) for _ in range(callers)]
        assert sorted(self.world.run(_together(work))) == sorted(expected)

    def teardown(self) -> None:
        """Everything that can be read, at the end."""
        self.world.run(self._compare())

    def _all_at_once(self, batches: list[Sequence[Drawn]]) -> None:
        answers = self.world.run(_together([self._book(batch) for batch in batches]))
        chain = self.world.run(self._chain())
        for order in itertools.permutations(range(len(batches))):
            trial = self.reference.copy()
            expected = {place: _booked_by(trial, batches[place]) for place in order}
            if expected == dict(enumerate(answers)) and list(trial.entries) == chain:
                self.reference = trial
                return
        raise AssertionError(f"in no order {batches} leads to {answers} and {chain}")

    async def _book(self, batch: Sequence[Drawn]) -> list[str] | None:
        """The keys that were new, or None where the batch was refused."""
        bookings = [
            Booking(
                new_id(),
                self.scope.tenant_id,
                Entry("platform", f"k{key}", "trial", lines_of(moves)),
                START + timedelta(hours=held),
                START + timedelta(hours=recorded),
                Cause(new_id(), new_id()),
            )
            for key, moves, held, recorded in batch
        ]
        try:
            async with self.world.ledger.transaction(self.scope) as tx:
                booked = await posting.book(tx, bookings)
        except SourceKeyConflictError:
            return None
        return [each.entry.source_key for each in booked]

    async def _id_of(self, key: str) -> UUID:
        """The entry with this key."""
        found: UUID = await self.world.admin.fetchval(
            "select id from ledger.journal_entry where tenant_id = $1 and source_key = $2",
            self.scope.tenant_id,
            key,
        )
        return found

    async def _reverse(self, original: UUID, effective_at: datetime, now: datetime) -> bool:
        """Whether the entry was taken back just now."""
        try:
            async with self.world.ledger.transaction(self.scope) as tx:
                await reversal.reverse(
                    tx, original, reason="x", actor="x", effective_at=effective_at, now=now
                )
        except AlreadyReversedError:
            return False
        return True

    async def _chain(self) -> list[str]:
        """The keys of the entries in the order in which they were booked."""
        rows = await self.world.admin.fetch(
            "select source_key from ledger.journal_entry where tenant_id = $1 order by chain_seq",
            self.scope.tenant_id,
        )
        return [row["source_key"] for row in rows]

    async def _compare(self) -> None:
        """Statements, balances at times of both axes, what was told; and the book holds in itself."""
        for account, currency in itertools.product(ACCOUNTS, CURRENCIES):
            if after := self.reference.statement(account.code, currency):
                await self._compare_account(account.code, currency, after)
        tenant_id, admin = self.scope.tenant_id, self.world.admin
        told = await admin.fetch(
            "select payload::jsonb #>> '{data,entry_id}' from ledger.outbox "
            "where tenant_id = $1 and event_type = 'JournalEntryPosted' order by id",
            tenant_id,
        )
        booked = await admin.fetch(
            "select id::text from ledger.journal_entry where tenant_id = $1 order by chain_seq",
            tenant_id,
        )
        assert sorted(map(tuple, told)) == sorted(map(tuple, booked)), "told once each"
        proof = LedgerProof(admin)
        if booked:
            for book in await proof.books(str(tenant_id), {}):
                assert (await proof.check(book, {}, lambda _: None)).faults == []

    async def _compare_account(self, account: str, currency: str, after: list[int]) -> None:
        reader = Reader(self.world.ledger, self.scope.tenant_id, "test", "platform")
        _, rows = await accounts.statement(reader, account, currency, before=None, limit=10**6)
        assert [row["balance_after_minor"] for row in reversed(rows)] == after
        axes: tuple[accounts.Axis, ...] = ("effective", "booked")
        for axis, hours in itertools.product(axes, HOURS_LOOKED_AT):
            at = START + timedelta(hours=hours)
            _, found = await accounts.balances(reader, account, currency, at, axis)
            expected = self.reference.balance_at(account, currency, axis, at)
            assert [row["net_minor"] for row in found] == [expected], (account, axis, hours)


async def _together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of several at the same time; what one raises is raised when all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for each in results:
        if isinstance(each, BaseException):
            raise each
    return results


def _booked_by(reference: ReferenceLedger, batch: Sequence[Drawn]) -> list[str] | None:
    """The keys that the reference books now, or None where it refuses the batch."""
    entries = [
        (
            f"k{key}",
            ReferenceEntry(
                plain(lines_of(moves)),
                START + timedelta(hours=held),
                START + timedelta(hours=recorded),
            ),
        )
        for key, moves, held, recorded in batch
    ]
    try:
        return reference.book(entries)
    except ConflictError:
        return None
