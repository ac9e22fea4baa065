"""Events of the ledger: holds, bounds of accounts, and where facts went beyond them."""

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact
from libs.contracts.ledger import Book


class HoldAmount(Fact):
    """An amount of an account is to be held; nobody else takes it until the hold ends.

    Attributes:
        key: the business fact it is held for; a book holds it once.
    """

    book: Book
    hold_id: UUID
    key: str
    account: str
    currency: str
    amount_minor: int
    expires_at: AwareDatetime
    placed_at: AwareDatetime
    actor: str


class CaptureHold(Fact):
    """What is held is to be booked, in whole or in part; `effective_at` is that of the entry.

    Attributes:
        key: the business fact it is captured for; a hold is captured for it once.
        account: that is held on, so that the entry can be booked before the hold is read.
        to: the account that gets it.
        ends: whether what is left is free again.
    """

    book: Book
    hold_id: UUID
    key: str
    account: str
    to: str
    currency: str
    amount_minor: int
    ends: bool
    entry_id: UUID
    captured_at: AwareDatetime
    actor: str


class ReleaseHold(Fact):
    """What is held still is to be free again.

    Attributes:
        because: somebody released it, or its time was over.
    """

    book: Book
    hold_id: UUID
    because: Literal["release", "expiry"]
    released_at: AwareDatetime
    actor: str


class BoundAccount(Fact):
    """An account is to have these bounds, on its normal side; None: none.

    Attributes:
        min_minor: of the balance less holds.
        max_minor: of the balance.
        version: only a higher one replaces what is there.
    """

    book: Book
    account: str
    currency: str
    min_minor: int | None
    max_minor: int | None
    version: int
    actor: str


class AccountOverrun(Fact):
    """Facts took an account beyond one of its bounds, or below what is held of it.

    Attributes:
        account_seq: number of the last posting that was booked with it.
        limit_minor: the bound, on the account's normal side, as are balance and holds.
    """

    book: Book
    account: str
    currency: str
    account_seq: int
    bound: Literal["minimum", "maximum"]
    limit_minor: int
    balance_minor: int
    held_minor: int
