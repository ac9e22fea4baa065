"""A book as a file: which entries it holds, and reading them page by page.

Entries never change and the chain numbers them without holes, so all entries up to the head of a
moment are the book as of that moment, whenever they are read. A slow reader of the file holds no
transaction and no connection.
"""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from libs.db.pool import Row
from libs.money import EXPONENTS
from services.ledger import store_exports as store
from services.ledger.books import Reader
from services.ledger.store_exports import Place

Format = Literal["csv", "jsonl", "parquet", "hledger", "beancount"]
PlainFormat = Literal["hledger", "beancount"]

EXPORTED_ENTRIES_MAX = 100_000
READ_PAGE = 100
"""Entries that are in memory at a time; each may have a hundred postings."""

AT_WORK_MAX = 8
AT_WORK_PER_TENANT_MAX = 2
"""Files that this process makes at a time, and of one tenant's book among them."""

_at_work: Counter[UUID] = Counter()


class NoBookNamedError(LookupError):
    """An export is of one tenant's book, and no tenant was named."""


class BusyError(RuntimeError):
    """So many files are being made already; nothing was begun."""


class NoDecimalsError(ValueError):
    """A currency of the book has no known number of decimals; the message names it."""


@dataclass(frozen=True)
class Wanted:
    """Which entries are wanted.

    Attributes:
        effective_from, effective_to: only those that hold from the one and before the other.
        currency: only postings in this one.
        after: go on after this number of the chain, where the file before ended.
    """

    effective_from: datetime | None
    effective_to: datetime | None
    currency: str | None
    after: int

    @property
    def is_whole(self) -> bool:
        """Whether the book is wanted from its first entry on, and at all times."""
        return self.after == 0 and self.effective_from is None and self.effective_to is None


@dataclass(frozen=True)
class Export:
    """A stretch of a book's chain.

    Attributes:
        up_to: number of the last entry in it.
        next_after: number to go on after, where it ends before the book does.
        accounts, currencies: all of the book, for the head of a file.
    """

    reader: Reader
    wanted: Wanted
    place: Place
    up_to: int
    next_after: int | None
    accounts: list[Row]
    currencies: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole book: then its sums are the book's balances."""
        return self.wanted.is_whole and self.next_after is None

    async def pages(self) -> AsyncGenerator[list[Row], None]:
        """The postings with their entries, in the order of the chain."""
        for after in range(self.wanted.after, self.up_to, READ_PAGE):
            async with self.reader.transaction() as tx:
                rows = await store.list_postings(
                    tx,
                    self.place,
                    after=after,
                    up_to=min(after + READ_PAGE, self.up_to),
                    effective_from=self.wanted.effective_from,
                    effective_to=self.wanted.effective_to,
                    currency=self.wanted.currency,
                )
            if rows:
                yield rows


def enter(tenant_id: UUID) -> None:
    """Take the place of a file of this tenant's book, until it is left.

    Raises:
        BusyError: there is none.
    """
    if _at_work.total() >= AT_WORK_MAX or _at_work[tenant_id] >= AT_WORK_PER_TENANT_MAX:
        raise BusyError
    _at_work[tenant_id] += 1


def leave(tenant_id: UUID) -> None:
    """Give the place back."""
    _at_work[tenant_id] -= 1
    if not _at_work[tenant_id]:
        del _at_work[tenant_id]


async def begin(reader: Reader, wanted: Wanted, export_format: Format) -> Export:
    """At most `EXPORTED_ENTRIES_MAX` numbers of a book as it is now.

    Raises:
        NoBookNamedError: no tenant was named.
        NoDecimalsError: the format counts in major units, and a currency has none that is known.
    """
    if reader.tenant_id is None:
        raise NoBookNamedError
    place = (reader.tenant_id, reader.mode, reader.book)
    async with reader.transaction() as tx:
        head = await store.last_seq(tx, place)
        accounts = await store.accounts_of(tx, place)
        currencies = await store.currencies_of(tx, place)
    if wanted.currency is not None:
        currencies = [code for code in currencies if code == wanted.currency]
    unknown = [code for code in currencies if code not in EXPONENTS]
    if unknown and export_format in get_args(PlainFormat):
        raise NoDecimalsError(unknown[0])
    up_to = min(head, wanted.after + EXPORTED_ENTRIES_MAX)
    next_after = up_to if up_to < head else None
    return Export(reader, wanted, place, up_to, next_after, accounts, currencies)
