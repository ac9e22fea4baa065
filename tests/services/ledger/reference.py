"""A ledger as plain as can be: lists and sums, nothing shared with the service."""

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

Posting = tuple[str, Literal["debit", "credit"], int, str]
"""Account, side, amount, currency."""


class RefusedError(Exception):
    """The book stays as it is; the message says why, by the name of the service's own error."""


@dataclass
class ReferenceEntry:
    """What was booked under a key.

    Attributes:
        late_since: when it held in truth, where its month was closed.
    """

    postings: tuple[Posting, ...]
    effective_at: datetime
    booked_at: datetime
    reversed: bool = False
    late_since: datetime | None = None


@dataclass
class ReferenceHold:
    """An amount of what a credit account keeps, set aside.

    Attributes:
        captures: what was taken, by key: to which account, how much, and whether that ended it.
    """

    account: str
    currency: str
    amount: int
    expires_at: datetime
    captures: dict[str, tuple[str, int, bool]] = field(default_factory=dict)
    ended_by: str | None = None

    @property
    def captured(self) -> int:
        """What was taken of it."""
        return sum(amount for _, amount, _ in self.captures.values())

    @property
    def held(self) -> int:
        """What is set aside still."""
        return 0 if self.ended_by else self.amount - self.captured


@dataclass
class ReferenceLedger:
    """One book.

    Attributes:
        closed: months (year, month) that are closed, the first one first.
    """

    entries: dict[str, ReferenceEntry] = field(default_factory=dict)
    holds: dict[str, ReferenceHold] = field(default_factory=dict)
    closed: list[tuple[int, int]] = field(default_factory=list)

    def copy(self) -> "ReferenceLedger":
        """The same book, to try something on."""
        return deepcopy(self)

    def book(self, batch: list[tuple[str, ReferenceEntry]]) -> list[str]:
        """Book all of a batch or nothing; the keys that were new."""
        new: dict[str, ReferenceEntry] = {}
        for key, entry in batch:
            known = self.entries.get(key) or new.get(key)
            if known is None:
                new[key] = entry
            elif sorted(known.postings) != sorted(entry.postings):
                raise RefusedError("SourceKeyConflictError")
        for entry in new.values():
            if self.closed and entry.effective_at < _end_of(self.closed[-1]):
                entry.late_since, entry.effective_at = entry.effective_at, _end_of(self.closed[-1])
        self.entries |= new
        return list(new)

    def reverse(self, key: str, effective_at: datetime, booked_at: datetime) -> None:
        """Take an entry back, once, and nothing that is held."""
        entry = self.entries[key]
        if entry.reversed:
            raise RefusedError("AlreadyReversedError")
        for account, currency in {(account, code) for account, _, _, code in entry.postings}:
            held, taken = self.held(account, currency), -_net(entry, account, currency)
            if held and taken > 0 and -self.balance(account, currency) - taken < held:
                raise RefusedError("OverrunError")
        entry.reversed = True
        other: dict[str, Literal["debit", "credit"]] = {"debit": "credit", "credit": "debit"}
        taken_back = tuple((a, other[side], m, c) for a, side, m, c in entry.postings)
        self.book([(f"reversal:{key}", ReferenceEntry(taken_back, effective_at, booked_at))])

    def close(self, month: tuple[int, int], now: datetime) -> None:
        """Close a month, one after the other; one that is closed stays so."""
        if month in self.closed:
            return
        if self.closed and month < self.closed[-1]:
            raise RefusedError("ClosedByLaterError")
        if self.closed and month > _next(self.closed[-1]):
            raise RefusedError("NextToCloseError")
        if now < _end_of(month):
            raise RefusedError("NotOverError")
        self.closed.append(month)

    def reopen(self, month: tuple[int, int]) -> None:
        """Open the last closed month again."""
        if not self.closed or month > self.closed[-1]:
            raise RefusedError("NotClosedError")
        if month != self.closed[-1]:
            raise RefusedError("ClosedByLaterError")
        self.closed.pop()

    def hold(self, key: str, wish: ReferenceHold, now: datetime) -> bool:
        """Set an amount aside, once by its key, if so much is available; whether it is now."""
        known = self.holds.get(key)
        if known is not None:
            if (known.amount, known.expires_at) != (wish.amount, wish.expires_at):
                raise RefusedError("OtherContentError")
            return False
        due = [h for h in self._open_on(wish.account, wish.currency) if h.expires_at <= now]
        held = self.held(wish.account, wish.currency) - sum(each.held for each in due)
        if -self.balance(wish.account, wish.currency) - held < wish.amount:
            raise RefusedError("OverrunError")
        for each in due:
            each.ended_by = "expiry"
        self.holds[key] = wish
        return True

    def capture(
        self,
        key: str,
        part: str,
        amount: int | None,
        to: str,
        *,
        ends: bool,
        effective_at: datetime,
        now: datetime,
    ) -> bool:
        """Take what is held, in whole or in part, once by the part's name; whether it is now."""
        hold = self.holds[key]
        if part in hold.captures:
            if hold.captures[part] != (to, amount or hold.captures[part][1], ends):
                raise RefusedError("OtherContentError")
            return False
        if hold.ended_by or hold.expires_at <= now:
            raise RefusedError("EndedError")
        taken = amount or hold.held
        if taken > hold.held:
            raise RefusedError("AmountError")
        hold.captures[part] = (to, taken, ends)
        if ends or not hold.held:
            hold.ended_by = "capture"
        moved: tuple[Posting, ...] = (
            (hold.account, "debit", taken, hold.currency),
            (to, "credit", taken, hold.currency),
        )
        self.book([(f"hold:{key}:captured:{part}", ReferenceEntry(moved, effective_at, now))])
        return True

    def release(self, key: str, now: datetime) -> None:
        """Free what is held; what is released stays so."""
        hold = self.holds[key]
        if hold.ended_by == "release":
            return
        if hold.ended_by or hold.expires_at <= now:
            raise RefusedError("EndedError")
        hold.ended_by = "release"

    def expire(self, now: datetime) -> None:
        """Free all that is held too long."""
        for hold in self.holds.values():
            if hold.ended_by is None and hold.expires_at <= now:
                hold.ended_by = "expiry"

    def chain(self) -> list[tuple[str, datetime]]:
        """The entries in their order: key, and when each holds."""
        return [(key, entry.effective_at) for key, entry in self.entries.items()]

    def held(self, account: str, currency: str) -> int:
        """What is set aside of an account."""
        return sum(hold.held for hold in self._open_on(account, currency))

    def _open_on(self, account: str, currency: str) -> list[ReferenceHold]:
        return [
            hold
            for hold in self.holds.values()
            if (hold.account, hold.currency) == (account, currency) and hold.ended_by is None
        ]

    def statement(self, account: str, currency: str) -> list[int]:
        """The balance after each posting of an account, in the order of booking."""
        balance, after = 0, []
        for entry in self.entries.values():
            for name, side, amount, code in entry.postings:
                if (name, code) == (account, currency):
                    balance += amount if side == "debit" else -amount
                    after.append(balance)
        return after

    def balance(self, account: str, currency: str) -> int:
        """Debits less credits of all that is booked."""
        return sum(_net(entry, account, currency) for entry in self.entries.values())

    def balance_at(self, account: str, currency: str, axis: str, at: datetime) -> int:
        """Debits less credits of what held, or was recorded, by then."""
        return sum(
            _net(entry, account, currency)
            for entry in self.entries.values()
            if (entry.effective_at if axis == "effective" else entry.booked_at) <= at
        )


def _net(entry: ReferenceEntry, account: str, currency: str) -> int:
    """Debits less credits of an entry on an account."""
    return sum(
        amount if side == "debit" else -amount
        for name, side, amount, code in entry.postings
        if (name, code) == (account, currency)
    )


def _next(month: tuple[int, int]) -> tuple[int, int]:
    return (month[0] + 1, 1) if month[1] == 12 else (month[0], month[1] + 1)


def _end_of(month: tuple[int, int]) -> datetime:
    return datetime(*_next(month), 1, tzinfo=UTC)
