"""The reports: whose figures, over which months."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode, Scope
from services.reporting import store_reports as store

MONTHS_MAX = 120
MONTHS_DEFAULT = 24


@dataclass(frozen=True)
class Reader:
    """Whose figures are read.

    Attributes:
        tenant_id: None adds up all tenants; for the platform's staff only.
        book: what the platform bills its tenants, or what a tenant bills its own customers.
    """

    database: Database
    tenant_id: UUID | None
    mode: Mode
    book: Book

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Tx, None]:
        """A transaction that sees exactly the rows to be read."""
        if self.tenant_id is None:
            async with self.database.maintenance() as tx:
                yield tx
        else:
            scope = Scope((self.tenant_id,), self.mode, (self.book,))
            async with self.database.transaction(scope) as tx:
                yield tx


@dataclass(frozen=True)
class RevenueMonth:
    """What one month earned in one currency, less refunds.

    Attributes:
        by_kind: by the revenue account's name: flat, usage, proration, refunds, …
    """

    month: date
    currency: str
    revenue_minor: int
    by_kind: dict[str, int]


@dataclass(frozen=True)
class Summary:
    """Counts and sums of everything there is; tenants are None where a tenant asks."""

    invoices: list[Row]
    payments: list[Row]
    subscriptions: list[Row]
    tenants: list[Row] | None


def months_back(month: date, count: int) -> date:
    """The first day of the month `count` months earlier."""
    index = month.year * 12 + month.month - 1 - count
    return date(index // 12, index % 12 + 1, 1)


def months_between(first: date, last: date) -> int:
    """How many months a range holds, both ends included."""
    return (last.year - first.year) * 12 + last.month - first.month + 1


async def revenue(
    reader: Reader, first: date, last: date, currency: str | None
) -> list[RevenueMonth]:
    """Revenue by month and currency; months without any are left out."""
    async with reader.transaction() as tx:
        rows = await store.revenue_by_month(
            tx,
            reader.mode,
            reader.book,
            reader.tenant_id,
            first=first,
            last=last,
            currency=currency,
        )
    kinds: dict[tuple[date, str], dict[str, int]] = {}
    for row in rows:
        of_month = kinds.setdefault((row["month"], row["currency"]), {})
        of_month[row["account"].partition(":")[2]] = int(row["amount_minor"])
    return [
        RevenueMonth(month, code, sum(by_kind.values()), by_kind)
        for (month, code), by_kind in kinds.items()
    ]


async def summary(reader: Reader) -> Summary:
    """Invoices by status, payments by outcome, subscriptions and tenants by plan and status."""
    place = (reader.mode, reader.book, reader.tenant_id)
    async with reader.transaction() as tx:
        return Summary(
            invoices=await store.invoices_by_status(tx, *place),
            payments=await store.payments_by_outcome(tx, *place),
            subscriptions=await store.subscriptions_by_plan(tx, *place),
            tenants=await store.tenants_by_plan(tx) if reader.tenant_id is None else None,
        )
