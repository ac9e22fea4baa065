"""Whatever is booked, told again, contradicted and taken back: the book is that of a plain one."""

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ledger.facts import START, assert_sound
from ledger.reference import ConflictError, Posting, ReferenceEntry, ReferenceLedger
from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Cause, Database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import accounts, chart, posting, reversal
from services.ledger.books import Reader
from services.ledger.entries import Entry, Line
from services.ledger.reversal import AlreadyReversedError
from services.ledger.store import Booking, SourceKeyConflictError

ACCOUNTS = [chart.BANK, chart.SUSPENSE, chart.RECEIVABLE, chart.clearing("acct_1")]
CURRENCIES = ["EUR", "JPY"]
BOTH = ("platform", "tenant")

MOVES = st.lists(
    st.tuples(st.permutations(ACCOUNTS), st.integers(1, 2**40), st.sampled_from(CURRENCIES)),
    min_size=1,
    max_size=3,
)
ENTRIES = st.tuples(st.integers(0, 12), MOVES, st.integers(-50, 50), st.integers(0, 50))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("book"), st.lists(ENTRIES, min_size=1, max_size=5)),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("reverse"), st.integers(0, 30), st.integers(-50, 50)),
    ),
    max_size=8,
)


def lines_of(moves: list[Any]) -> tuple[Line, ...]:
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


class Compared:
    """A book of the service beside one of the reference."""

    def __init__(self, ledger: Database) -> None:
        self.ledger = ledger
        self.scope = Scope((new_id(),), "test", BOTH)
        self.reference = ReferenceLedger()
        self.ids: dict[str, Any] = {}
        self.told: list[Any] = []

    async def book(self, drawn: list[Any]) -> None:
        """Both book a batch, or both refuse it."""
        bookings, batch = [], []
        for key, moves, held, recorded in drawn:
            lines = lines_of(moves)
            effective_at = START + timedelta(hours=held)
            booked_at = START + timedelta(hours=recorded)
            entry = Entry("platform", f"k{key}", "trial", lines)
            cause = Cause(new_id(), new_id())
            bookings.append(
                Booking(new_id(), self.scope.tenant_id, entry, effective_at, booked_at, cause)
            )
            batch.append((f"k{key}", ReferenceEntry(plain(lines), effective_at, booked_at)))
        try:
            expected = self.reference.book(batch)
        except ConflictError:
            expected = None
        try:
            async with self.ledger.transaction(self.scope) as tx:
                booked = await posting.book(tx, bookings)
        except SourceKeyConflictError:
            assert expected is None
            return
        assert [each.entry.source_key for each in booked] == expected
        self.ids |= {each.entry.source_key: each.id for each in booked}
        self.told.append(drawn)

    async def reverse(self, number: int, held: int) -> None:
        """Both take an entry back, or both say that it was done before."""
        if not self.ids:
            return
        key = list(self.ids)[number % len(self.ids)]
        effective_at = START + timedelta(hours=held)
        now = START + timedelta(days=9)
        try:
            async with self.ledger.transaction(self.scope) as tx:
                made = await reversal.reverse(
                    tx, self.ids[key], reason="x", actor="x", effective_at=effective_at, now=now
                )
        except AlreadyReversedError:
            assert not self.reference.reverse(key, effective_at, now)
            return
        assert self.reference.reverse(key, effective_at, now)
        self.ids[f"reversal of {key}"] = made

    async def compare(self) -> None:
        """Statements, and balances at some times of both axes."""
        reader = Reader(self.ledger, self.scope.tenant_id, "test", "platform")
        for account in ACCOUNTS:
            for currency in CURRENCIES:
                after = self.reference.statement(account.code, currency)
                if not after:
                    continue
                _, rows = await accounts.statement(
                    reader, account.code, currency, before=None, limit=10**6
                )
                assert [row["balance_after_minor"] for row in reversed(rows)] == after
                for axis in ("effective", "booked"):
                    for hours in (-20, 0, 20, 10**4):
                        at = START + timedelta(hours=hours)
                        _, found = await accounts.balances(
                            reader,
                            account.code,
                            currency,
                            at,
                            axis,  # type: ignore[arg-type]
                        )
                        assert [row["net_minor"] for row in found] == [
                            self.reference.balance_at(account.code, currency, axis, at)
                        ]


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
async def test_the_book_is_that_of_the_reference(
    ledger: Database, log: MemoryLog, database: TestDatabase, steps: list[Any]
) -> None:
    compared = Compared(ledger)
    for step in steps:
        match step:
            case ("book", drawn):
                await compared.book(drawn)
            case ("again", number) if compared.told:
                await compared.book(compared.told[number % len(compared.told)])
            case ("reverse", number, held):
                await compared.reverse(number, held)
    await compared.compare()
    await log.settle()
    told = [e for e in log.events(JournalEntryPosted) if e.tenant_id == compared.scope.tenant_id]
    assert len(told) == len(compared.reference.entries)
    await assert_sound(database, compared.scope.tenant_id)
