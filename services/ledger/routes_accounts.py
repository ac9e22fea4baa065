"""`/api/v1/ledger/accounts/{account}`: what stood on an account at a time, and its statement."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from libs.contracts.ledger import Book
from libs.db.pool import Row
from libs.ids import public_id
from libs.money import Currency
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Forbidden, InvalidFields, NotFound, problem_responses
from libs.web.times import UtcTime
from services.ledger import accounts
from services.ledger.accounts import Axis, NoSuchAccountError, SeveralCurrenciesError
from services.ledger.chart import AccountType, Side
from services.ledger.routes import CurrencyQuery, Reading

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden, NotFound))

NO_ACCOUNT = (
    "The book has no such account. `GET /api/v1/ledger/accounts` lists them; an operator names the "
    "tenant by `X-Tenant-ID`."
)

AccountCode = Annotated[
    str, Path(max_length=200, pattern=r"^[^\x00]+$", description="e.g. `asset:receivable`")
]


class CurrencyBalance(BaseModel):
    """What stood on the account in one currency; positive on its normal side."""

    currency: str
    balance_minor: int
    held_minor: int | None = Field(description="By open holds; null at a time.")
    available_minor: int | None = Field(description="The balance less holds; null at a time.")
    min_minor: int | None = Field(description="What may be available at least; null: anything.")
    max_minor: int | None = Field(description="What the balance may come to; null: anything.")


class BalanceAt(BaseModel):
    """An account and what stood on it."""

    account: str
    type: AccountType
    normal_side: Side
    book: Book
    axis: Axis
    at: datetime | None = Field(description="Null: everything that is booked.")
    balances: list[CurrencyBalance]


class StatementPosting(BaseModel):
    """A posting of the account, with the balance after it."""

    account_seq: int = Field(description="Counts the postings of the account and currency.")
    entry_id: str
    source_key: str
    rule: str
    reverses: str | None = Field(description="The entry that this one takes back.")
    effective_at: datetime
    booked_at: datetime
    side: Side
    amount_minor: int
    balance_after_minor: int = Field(
        description="This posting included; positive on the normal side."
    )


@router.get("/api/v1/ledger/accounts/{account}/balance")
async def get_account_balance(
    reader: Reading,
    account: AccountCode,
    at: Annotated[
        UtcTime | None, Query(description="Postings of this time and before; all without it.")
    ] = None,
    axis: Annotated[
        Axis, Query(description="By the time at which facts held, or were recorded.")
    ] = "effective",
    currency: CurrencyQuery = None,
) -> BalanceAt:
    """What stood on an account at a time."""
    try:
        found, rows = await accounts.balances(reader, account, currency, at, axis)
    except NoSuchAccountError:
        raise NotFound(NO_ACCOUNT) from None
    return BalanceAt(
        account=account,
        type=found["type"],
        normal_side=found["normal_side"],
        book=reader.book,
        axis=axis,
        at=at,
        balances=[
            _balance(row, _on_normal_side(found, row["net_minor"]), is_now=at is None)
            for row in rows
        ],
    )


@router.get("/api/v1/ledger/accounts/{account}/statement")
async def get_account_statement(
    reader: Reading,
    account: AccountCode,
    page: Annotated[PageRequest, Depends(page_request)],
    currency: Annotated[
        Currency | None, Query(description="Needed where the account has several.")
    ] = None,
) -> Page[StatementPosting]:
    """An account's postings in one currency with the balance after each, newest first."""
    position = page.after(int)
    try:
        found, rows = await accounts.statement(
            reader,
            account,
            currency,
            before=position[0] if position else None,
            limit=page.limit + 1,
        )
    except NoSuchAccountError:
        raise NotFound(NO_ACCOUNT) from None
    except SeveralCurrenciesError:
        raise InvalidFields("The account has several currencies. Name one by `currency`.") from None

    def shape(row: Row) -> StatementPosting:
        return StatementPosting(
            account_seq=row["account_seq"],
            entry_id=public_id("entry", row["entry_id"]),
            source_key=row["source_key"],
            rule=row["rule"],
            reverses=public_id("entry", row["reverses"]) if row["reverses"] else None,
            effective_at=row["effective_at"],
            booked_at=row["booked_at"],
            side=row["side"],
            amount_minor=row["amount_minor"],
            balance_after_minor=_on_normal_side(found, row["balance_after_minor"]),
        )

    return Page[StatementPosting].of(rows, page.limit, lambda row: (row["account_seq"],), shape)


def _balance(row: Row, balance_minor: int, *, is_now: bool) -> CurrencyBalance:
    held_minor = row["held_minor"] if is_now else None
    return CurrencyBalance(
        currency=row["currency"],
        balance_minor=balance_minor,
        held_minor=held_minor,
        available_minor=None if held_minor is None else balance_minor - held_minor,
        min_minor=row["min_minor"] if is_now else None,
        max_minor=row["max_minor"] if is_now else None,
    )


def _on_normal_side(account: Row, net_minor: int) -> int:
    return int(net_minor) if account["normal_side"] == "debit" else -int(net_minor)
