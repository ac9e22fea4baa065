"""A ledger as plain as can be: lists and sums, nothing shared with the service."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

Posting = tuple[str, Literal["debit", "credit"], int, str]
"""Account, side, amount, currency."""


class ConflictError(Exception):
    """The key is booked with other postings."""


@dataclass
class ReferenceEntry:
    """What was booked under a key."""

    postings: tuple[Posting, ...]
    effective_at: datetime
    booked_at: datetime
    reversed: bool = False


@dataclass
class ReferenceLedger:
    """One book."""

    entries: dict[str, ReferenceEntry] = field(default_factory=dict)

    def copy(self) -> "ReferenceLedger":
        """The same book, to try something on."""
        return ReferenceLedger({key: replace(entry) for key, entry in self.entries.items()})

    def book(self, batch: list[tuple[str, ReferenceEntry]]) -> list[str]:
        """Book all of a batch or nothing; the keys that were new."""
        new: dict[str, ReferenceEntry] = {}
        for key, entry in batch:
            known = self.entries.get(key) or new.get(key)
            if known is None:
                new[key] = entry
            elif sorted(known.postings) != sorted(entry.postings):
                raise ConflictError(key)
        self.entries |= new
        return list(new)

    def reverse(self, key: str, effective_at: datetime, booked_at: datetime) -> bool:
        """Take an entry back; False where that was done before."""
        entry = self.entries[key]
        if entry.reversed:
            return False
        entry.reversed = True
        other: dict[str, Literal["debit", "credit"]] = {"debit": "credit", "credit": "debit"}
        taken_back = tuple((a, other[side], m, c) for a, side, m, c in entry.postings)
        self.entries[f"reversal:{key}"] = ReferenceEntry(taken_back, effective_at, booked_at)
        return True

    def statement(self, account: str, currency: str) -> list[int]:
        """The balance after each posting of an account, in the order of booking."""
        balance, after = 0, []
        for entry in self.entries.values():
            for name, side, amount, code in entry.postings:
                if (name, code) == (account, currency):
                    balance += amount if side == "debit" else -amount
                    after.append(balance)
        return after

    def balance_at(self, account: str, currency: str, axis: str, at: datetime) -> int:
        """Debits less credits of what held, or was recorded, by then."""
        balance = 0
        for entry in self.entries.values():
            if (entry.effective_at if axis == "effective" else entry.booked_at) <= at:
                for name, side, amount, code in entry.postings:
                    if (name, code) == (account, currency):
                        balance += amount if side == "debit" else -amount
        return balance
