"""Reading the books: of one tenant, or a whole book over all tenants for the platform's staff."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode, Scope
from services.ledger import store, store_periods
from services.ledger.periods import Period


@dataclass(frozen=True)
class Reader:
    """Who reads: the scope of the rows in sight.

    Attributes:
        tenant_id: None reads the whole book over all tenants; for the platform's staff only.
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


async def balances(
    reader: Reader, currency: str | None, period: Period | None = None
) -> Sequence[Mapping[str, Any]]:
    """Debits and credits by account and currency, and what is held.

    Args:
        period: as they were at the end of this month, of the one tenant that is read: what stood on
            each account, as a debit or a credit.
    """
    if period is not None:
        return await _balances_at_end(reader, currency, period)
    async with reader.transaction() as tx:
        return await store.sum_balances(
            tx, reader.mode, reader.book, tenant_id=reader.tenant_id, currency=currency
        )


async def _balances_at_end(
    reader: Reader, currency: str | None, period: Period
) -> list[dict[str, Any]]:
    assert reader.tenant_id is not None, "the route refuses a month of no tenant"
    async with reader.transaction() as tx:
        rows = await store_periods.balances_before(
            tx,
            reader.tenant_id,
            reader.mode,
            reader.book,
            currency,
            before=period.ends_at,
        )
    return [
        dict(row)
        | {
            "debit_minor": max(row["net_minor"], 0),
            "credit_minor": max(-row["net_minor"], 0),
        }
        for row in rows
        if row["net_minor"]
    ]


async def entries(
    reader: Reader,
    *,
    account: str | None,
    source_key: str | None,
    before: UUID | None,
    limit: int,
) -> list[tuple[Row, list[Row]]]:
    """Entries, newest first, each with its postings."""
    async with reader.transaction() as tx:
        found = await store.list_entries(
            tx,
            reader.mode,
            reader.book,
            tenant_id=reader.tenant_id,
            account=account,
            source_key=source_key,
            before=before,
            limit=limit,
        )
        lines = await store.postings_of(tx, reader.mode, reader.book, found)
    by_entry: dict[UUID, list[Row]] = {row["id"]: [] for row in found}
    for line in lines:
        by_entry[line["entry_id"]].append(line)
    return [(row, by_entry[row["id"]]) for row in found]
