"""One account of one book: what stood on it at a time, and its statement."""

from datetime import datetime
from typing import Literal

from libs.db.pool import Row
from services.ledger import store_accounts, store_bounds
from services.ledger.books import Reader

Axis = Literal["effective", "booked"]


class NoSuchAccountError(LookupError):
    """The book has no such account, or no tenant was named."""


class SeveralCurrenciesError(ValueError):
    """The account has postings in several currencies, and none of them was named."""


async def balances(
    reader: Reader, account: str, currency: str | None, at: datetime | None, axis: Axis
) -> tuple[Row, list[Row]]:
    """An account and what stood on it by currency: debits less credits.

    Without a time also what is held of it, and what bounds it.

    Args:
        at: postings of this time and before count; None counts all that is booked.
        axis: whether a posting is of the time at which its fact held, or at which it was recorded.

    Raises:
        NoSuchAccountError: there is none.
    """
    if reader.tenant_id is None:
        raise NoSuchAccountError
    place = (reader.tenant_id, reader.mode, reader.book, account)
    async with reader.transaction() as tx:
        found = await store_accounts.find(tx, *place)
        if found is None:
            raise NoSuchAccountError
        if at is None:
            return found, await store_bounds.standings(tx, *place, currency)
        rows = await store_accounts.balances_at(
            tx, *place, currency, at=at, effective=axis == "effective"
        )
    return found, rows


async def statement(
    reader: Reader, account: str, currency: str | None, *, before: int | None, limit: int
) -> tuple[Row, list[Row]]:
    """An account and its postings in one currency, newest first.

    Args:
        currency: None where the account has only one.

    Raises:
        NoSuchAccountError: there is none.
        SeveralCurrenciesError: a currency must be named.
    """
    if reader.tenant_id is None:
        raise NoSuchAccountError
    place = (reader.tenant_id, reader.mode, reader.book, account)
    newest = store_accounts.NEWEST if before is None else before
    async with reader.transaction() as tx:
        found = await store_accounts.find(tx, *place)
        if found is None:
            raise NoSuchAccountError
        if currency is None:
            known = [row["currency"] for row in await store_accounts.balances(tx, *place, None)]
            if len(known) > 1:
                raise SeveralCurrenciesError
            if not known:
                return found, []
            currency = known[0]
        rows = await store_accounts.list_postings(tx, *place, currency, before=newest, limit=limit)
    return found, rows
