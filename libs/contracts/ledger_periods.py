"""Events of the ledger: months of a book are closed and opened again."""

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact
from libs.contracts.ledger import Book


class ClosePeriod(Fact):
    """A month of a book is to be closed.

    Attributes:
        period: `2026-03`, in UTC.
        step: counts the closings and reopenings of the month.
        chain_seq: number of the last entry of the book's chain then.
    """

    book: Book
    period: str
    step: int
    closed_at: AwareDatetime
    chain_seq: int
    actor: str


class ReopenPeriod(Fact):
    """The last closed month of a book is to be opened again.

    Attributes:
        reason: as it stands in the audit log, without secrets and personal data.
    """

    book: Book
    period: str
    step: int
    reopened_at: AwareDatetime
    reason: str
    actor: str


class PeriodClosed(Fact):
    """A month of a book is closed: its figures stay, and what comes late is booked after it.

    Attributes:
        step: counts the closings and reopenings of the month.
        chain_seq, chain_hash: the head of the book's chain then; no hash where nothing was booked.
    """

    book: Book
    period: str
    step: int
    closed_at: AwareDatetime
    chain_seq: int
    chain_hash: str | None


class PeriodReopened(Fact):
    """The last closed month of a book is open again."""

    book: Book
    period: str
    step: int
    reopened_at: AwareDatetime
    reason: str
