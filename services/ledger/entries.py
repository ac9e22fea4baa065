"""A journal entry before it is booked: balanced postings that one money fact leads to."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from libs.contracts.ledger import Book
from libs.db.tenant import Mode
from services.ledger.chart import Account, Side

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_json = msgspec.json.encode


class ContradictoryFactError(ValueError):
    """A fact whose amounts do not add up; nobody may book it as it is."""


class UnbalancedError(ValueError):
    """Debits and credits of an entry differ."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """A posting to make: one side of an account, in minor units, always positive."""

    account: Account
    side: Side
    amount_minor: int
    currency: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What a rule makes of a money fact.

    Attributes:
        source_key: the money fact itself, unique per tenant, mode and book: never an event's id.
        rule, rule_version: which rule made it; the entry keeps them for ever.
        content_hash: of what is booked. Times and event ids are not in it: the same fact told again by
            another event is the same.
    """

    book: Book
    source_key: str
    rule: str
    lines: tuple[Line, ...]
    rule_version: int = 1
    content_hash: bytes = b""

    def __post_init__(self) -> None:
        """Check that the entry balances, and hash what is in it.

        Raises:
            UnbalancedError: in some currency it does not.
        """
        sums: dict[str, int] = defaultdict(int)
        for line in self.lines:
            if line.amount_minor <= 0:
                raise UnbalancedError(f"{self.source_key}: a posting must be positive")
            sums[line.currency] += line.amount_minor if line.side == "debit" else -line.amount_minor
        for currency, difference in sums.items():
            if difference:
                raise UnbalancedError(
                    f"{self.source_key}: {difference} {currency} more debit than credit"
                )
        msgspec.structs.force_setattr(self, "content_hash", hash_content(self))


def hash_content(entry: Entry) -> bytes:
    """SHA-256 of the canonical JSON of what is booked; see `Entry.content_hash`."""
    postings = sorted(
        (line.account.code, line.side, line.amount_minor, line.currency) for line in entry.lines
    )
    content = {"book": entry.book, "postings": postings, "source_key": entry.source_key}
    return hashlib.sha256(_json(content)).digest()


def debit(account: Account, amount_minor: int, currency: str) -> Line:
    """A debit; a negative amount is a credit, zero is no posting (see `entry`)."""
    side: Side = "debit" if amount_minor >= 0 else "credit"
    return Line(account, side, abs(amount_minor), currency)


def credit(account: Account, amount_minor: int, currency: str) -> Line:
    """A credit; a negative amount is a debit."""
    return debit(account, -amount_minor, currency)


def entry(
    book: Book, source_key: str, rule: str, lines: Iterable[Line], *, rule_version: int = 1
) -> Entry | None:
    """The entry these postings make; None where no money moves.

    Raises:
        UnbalancedError: debits and credits differ.
    """
    moved = tuple(line for line in lines if line.amount_minor)
    return Entry(book, source_key, rule, moved, rule_version) if moved else None


def entry_id(tenant_id: UUID, mode: Mode, book: Book, source_key: str, booked_at: datetime) -> UUID:
    """The id of the entry of a fact: whoever books it, however often, it is the same.

    Books that are made of their topics anew tell the same entries as before, and what points at one
    still does. In order of time like every id: RFC 9562, version 8, with the milliseconds of
    `booked_at` first and 74 bits of a SHA-256 of what is unique about the entry.
    """
    since = booked_at - _EPOCH
    millis = since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    name = f"sluice.entry.1\n{tenant_id}\n{mode}\n{book}\n{source_key}"
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])
    random_a, random_b = digest >> 64 & 0xFFF, digest & (1 << 62) - 1
    return UUID(int=(millis & (1 << 48) - 1) << 80 | 8 << 76 | random_a << 64 | 2 << 62 | random_b)
