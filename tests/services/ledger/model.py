"""The service's book beside a plain one: every step is done to both, and both must answer alike.

A machine of Hypothesis draws the steps: entries of any time, told again, told in other words, many at
once, taken back; amounts held, captured in part, released, expired; months closed and opened again.
Steps that happen at the same time may be taken in any order, but the answers and the chain must be
those of one order.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structlog.testing import capture_logs

from cli.ledger_proof import LedgerProof
from ledger.drawn import (
    ACCOUNTS,
    BATCHES,
    BOTH,
    CURRENCIES,
    HOURS,
    HOURS_LOOKED_AT,
    MANY_POSTINGS,
    START,
    Drawn,
    lines_of,
    plain_lines,
)
from ledger.reference import ReferenceEntry, ReferenceLedger, RefusedError
from libs.db.pool import Cause, Database, Tx, open_database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import accounts, bounds, holds, periods, posting, reversal
from services.ledger.books import Reader
from services.ledger.entries import Entry
from services.ledger.reversal import AlreadyReversedError
from services.ledger.store import Booking, SourceKeyConflictError

REFUSALS = (
    SourceKeyConflictError,
    AlreadyReversedError,
    bounds.OverrunError,
    holds.OtherContentError,
    holds.EndedError,
    holds.AmountError,
    periods.ClosedByLaterError,
    periods.NextToCloseError,
    periods.NotOverError,
    periods.NotClosedError,
)


@dataclass(frozen=True)
class Step:
    """Something that is done to both books.

    Attributes:
        real: does it to the service's, in a transaction of its own.
        plain: does it to the reference.
    """

    real: Callable[[Tx], Awaitable[Any]]
    plain: Callable[[ReferenceLedger], Any]


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


class Twice(RuleBasedStateMachine):
    """One book of a new tenant, twice: what every machine does and reads."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.scope = Scope((new_id(),), "test", BOTH)
        self.reference = ReferenceLedger()
        self.now = START
        self.hold_ids: dict[str, UUID] = {}

    def reverse_at_once(self, number: int, held: int, callers: int) -> None:
        """An entry is taken back, perhaps by two at once: one of them does, unless it is done."""
        keys = list(self.reference.entries)
        if keys:
            self.all_at_once(*[self._reversal(keys[number % len(keys)], held)] * callers)

    def teardown(self) -> None:
        """Everything that can be read, at the end."""
        self.world.run(self._compare())

    def all_at_once(self, *steps: Step) -> None:
        answers = self.world.run(_together([self._answer(step) for step in steps]))
        chain = self.world.run(self._chain())
        for order in itertools.permutations(range(len(steps))):
            trial = self.reference.copy()
            expected = {place: _answered(steps[place], trial) for place in order}
            if expected == dict(enumerate(answers)) and trial.chain() == chain:
                self.reference = trial
                return
        raise AssertionError(f"in no order {steps} leads to {answers} and {chain}")

    async def _answer(self, step: Step) -> Any:
        """What the service answers, or the name of what it refuses with."""
        try:
            async with self.world.ledger.transaction(self.scope) as tx:
                return await step.real(tx)
        except REFUSALS as refusal:
            return type(refusal).__name__

    def _reversal(self, key: str, held: int) -> Step:
        effective_at, now = START + timedelta(hours=held), START + timedelta(days=9)

        original = self.world.run(self._id_of(key))

        async def real(tx: Tx) -> None:
            await reversal.reverse(
                tx, original, reason="x", actor="x", effective_at=effective_at, now=now
            )

        return Step(real, lambda plain: plain.reverse(key, effective_at, now))

    async def _id_of(self, key: str) -> UUID:
        """The entry with this key."""
        found: UUID = await self.world.admin.fetchval(
            "select id from ledger.journal_entry where tenant_id = $1 and source_key = $2",
            self.scope.tenant_id,
            self._real_key(key),
        )
        return found

    def _plain_key(self, key: str) -> str:
        """A source key as the reference has it, which names a hold by its key."""
        for name, hold_id in self.hold_ids.items():
            key = key.replace(f"hold:{hold_id}:", f"hold:{name}:")
        return key

    def _real_key(self, key: str) -> str:
        """A source key as the service has it, which names a hold by its id."""
        for name, hold_id in self.hold_ids.items():
            key = key.replace(f"hold:{name}:", f"hold:{hold_id}:")
        return key

    async def _chain(self) -> list[tuple[str, datetime]]:
        """The entries in the order in which they were booked: key, and when each holds."""
        tenant_id, admin = self.scope.tenant_id, self.world.admin
        held = await admin.fetch(
            "select key, id from ledger.hold where tenant_id = $1 order by key", tenant_id
        )
        self.hold_ids = {row["key"]: row["id"] for row in held}
        rows = await admin.fetch(
            "select source_key, effective_at from ledger.journal_entry where tenant_id = $1 "
            "order by chain_seq",
            tenant_id,
        )
        return [(self._plain_key(row["source_key"]), row["effective_at"]) for row in rows]

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
        await self._compare_holds_and_late_entries()
        proof = LedgerProof(admin)
        for book in await proof.books(str(tenant_id), {}) if booked else ():
            assert (await proof.check(book, {}, lambda _: None)).faults == []

    async def _compare_holds_and_late_entries(self) -> None:
        tenant_id, admin = self.scope.tenant_id, self.world.admin
        held = await admin.fetch(
            "select key, captured_minor, remaining_minor, ended_by from ledger.hold "
            "where tenant_id = $1",
            tenant_id,
        )
        assert {row[0]: tuple(row)[1:] for row in held} == {
            key: (hold.captured, hold.held, hold.ended_by)
            for key, hold in self.reference.holds.items()
        }
        late = await admin.fetch(
            "select e.source_key, l.true_effective_at from ledger.late_entry l "
            "join ledger.journal_entry e on e.id = l.entry_id where l.tenant_id = $1",
            tenant_id,
        )
        assert dict(map(tuple, late)) == {
            self._real_key(key): entry.late_since
            for key, entry in self.reference.entries.items()
            if entry.late_since is not None
        }

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


class Books(Twice):
    """Whatever is booked."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.told: list[Sequence[Drawn]] = []
        self.grown = 0

    @rule(batch=BATCHES)
    def book(self, batch: Sequence[Drawn]) -> None:
        """Both book a batch, or both refuse it."""
        self.told.append(batch)
        self.all_at_once(booking(batch))

    @precondition(lambda self: self.told)
    @rule(number=st.integers(0, 30))
    def tell_again(self, number: int) -> None:
        """What was told before, refused or not, once more."""
        self.all_at_once(booking(self.told[number % len(self.told)]))

    @rule(batches=st.lists(BATCHES, min_size=2, max_size=3))
    def book_at_once(self, batches: list[Sequence[Drawn]]) -> None:
        """Several callers book at the same time."""
        self.all_at_once(*map(booking, batches))

    @precondition(lambda self: self.grown < 2 and len(self.told) % 3 == 2)
    @rule(held=HOURS)
    def grow(self, held: int) -> None:
        """An entry with so many postings that accounts are added up in blocks from then on."""
        self.grown += 1
        moves = [(ACCOUNTS[:2], amount + 1, "EUR") for amount in range(MANY_POSTINGS)]
        self.all_at_once(booking([(1000 + self.grown, moves, held, 0)]))

    @rule(number=st.integers(0, 30), held=HOURS, callers=st.integers(1, 2))
    def reverse(self, number: int, held: int, callers: int) -> None:
        """An entry is taken back."""
        self.reverse_at_once(number, held, callers)


def booking(batch: Sequence[Drawn]) -> Step:
    """A batch is booked; the answer is the keys that were new."""

    async def real(tx: Tx) -> list[str]:
        bookings = [
            Booking(
                new_id(),
                tx.tenant_id,
                Entry("platform", f"k{key}", "trial", lines_of(moves)),
                START + timedelta(hours=held),
                START + timedelta(hours=recorded),
                Cause(new_id(), new_id()),
            )
            for key, moves, held, recorded in batch
        ]
        return [each.entry.source_key for each in await posting.book(tx, bookings)]

    def plain(reference: ReferenceLedger) -> list[str]:
        return reference.book(
            [
                (
                    f"k{key}",
                    ReferenceEntry(
                        plain_lines(lines_of(moves)),
                        START + timedelta(hours=held),
                        START + timedelta(hours=recorded),
                    ),
                )
                for key, moves, held, recorded in batch
            ]
        )

    return Step(real, plain)


def _answered(step: Step, reference: ReferenceLedger) -> Any:
    """What the reference answers, or what it refuses with."""
    try:
        return step.plain(reference)
    except RefusedError as refusal:
        return str(refusal)


async def _together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of several at the same time; what one raises is raised when all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for each in results:
        if isinstance(each, BaseException):
            raise each
    return results
