"""What is drawn for the machine of `model.py`: entries, holds and months, in its words."""

from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import strategies as st

from ledger.reference import Posting
from services.ledger import chart
from services.ledger.entries import Line

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
"""Entries hold before and after the end of a month."""
ACCOUNTS = [chart.BANK, chart.SUSPENSE, chart.CUSTOMER_CREDITS, chart.clearing("acct_1")]
CURRENCIES = ["EUR", "JPY"]
BOTH = ("platform", "tenant")
HOURS_LOOKED_AT = (-1, 17, 10**4)
MANY_POSTINGS = 1_100
"""More than the ledger adds up in one of its blocks."""
CREDIT = 6 * 10**12
"""What customers hold to begin with."""

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
AMOUNTS = st.integers(1, 3).map(lambda sixths: CREDIT * sixths // 6)
HOLDS = st.tuples(st.integers(0, 7), AMOUNTS, st.integers(2, 5))
"""Number of the key, amount, and for how many hours it is held."""
PARTS = st.tuples(
    st.integers(0, 1), st.none() | AMOUNTS, st.sampled_from(ACCOUNTS[:2]), st.booleans(), HOURS
)
"""Of a hold: number of the part, amount, whose it is then, whether that ends it, when it holds."""
MONTHS = st.sampled_from([(2025, 12), (2026, 1), (2026, 2), (2026, 3)])
CLOSING_AT = datetime(2026, 3, 15, tzinfo=UTC)


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


def plain_lines(lines: tuple[Line, ...]) -> tuple[Posting, ...]:
    """The same for the reference."""
    return tuple((each.account.code, each.side, each.amount_minor, each.currency) for each in lines)
