"""`/api/v1/ledger`: trial balance, accounts and journal entries."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.contracts.ledger import Book
from libs.db.pool import Row
from libs.ids import public_id
from libs.money import Currency
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    problem_responses,
)
from services.ledger import books
from services.ledger.books import Reader
from services.ledger.bounds import OverrunError
from services.ledger.chart import AccountType, Side
from services.ledger.periods import Period

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD_MAX = timedelta(days=366)
"""When an entry that somebody asks for may hold at the earliest, and how far ahead."""

PERIOD = r"^[12][0-9]{3}-(0[1-9]|1[0-2])$"


class AccountWouldOverrun(Conflict):
    """409: an account would pass one of its bounds, or lose what is held of it."""

    default_code = "account_overrun"
    default_title = "Account does not take it"

    @classmethod
    def told(cls, overrun: OverrunError) -> Self:
        """What the database said of it."""
        return cls(
            f"The account `{overrun.account}` has {overrun.available_minor} {overrun.currency} "
            f"available and its {overrun.bound} is {overrun.limit_minor}: it does not take "
            f"{overrun.asked_minor}. Ask for less, or change its bounds.",
            extra={
                "account": overrun.account,
                "currency": overrun.currency,
                "bound": overrun.bound,
                "limit_minor": overrun.limit_minor,
                "available_minor": overrun.available_minor,
                "asked_minor": overrun.asked_minor,
            },
        )


class TrialBalanceRow(BaseModel):
    """All that was ever debited to and credited to an account, in one currency."""

    account: str
    type: AccountType
    currency: str
    debit_minor: int
    credit_minor: int


class TrialBalanceTotal(BaseModel):
    """The sums of one currency; debits equal credits."""

    currency: str
    debit_minor: int
    credit_minor: int


class TrialBalance(BaseModel):
    """Every account of a book with its debits and credits."""

    book: Book
    mode: Literal["test", "live"]
    rows: list[TrialBalanceRow]
    totals: list[TrialBalanceTotal]


class AccountBalance(BaseModel):
    """An account and what stands on it; positive on its normal side."""

    account: str
    type: AccountType
    normal_side: Side
    currency: str
    balance_minor: int
    held_minor: int = Field(description="By open holds.")
    available_minor: int = Field(description="The balance less holds.")


class AccountList(BaseModel):
    """The accounts of a book that were ever posted on."""

    items: list[AccountBalance]
    next_cursor: None = None


class PostingAnswer(BaseModel):
    """One side of an account; `account_seq` counts the postings of the account and currency."""

    account: str
    side: Side
    amount_minor: int
    currency: str
    account_seq: int
    balance_after_minor: int = Field(description="Debits less credits, this posting included.")


class EntryAnswer(BaseModel):
    """A journal entry: what was booked for one money fact, which `source_key` names."""

    id: str
    tenant_id: UUID
    book: Book
    source_key: str
    effective_at: datetime
    booked_at: datetime
    causation_id: UUID = Field(description="The event that told of the fact.")
    rule: str
    rule_version: int
    reverses: str | None = Field(description="The entry that this one takes back.")
    belongs_to: str | None = Field(
        description="Of a fact that came late: its month, which was closed. It is booked at the "
        "first moment that was open."
    )
    true_effective_at: datetime | None = Field(description="When the late fact held.")
    chain_seq: int = Field(description="Its place in the chain of its book.")
    chain_hash: str = Field(
        description="Hex of SHA-256 over the hash of the entry before it and all of this one."
    )
    metadata: dict[str, str] = Field(description="The words of whoever asked for the entry.")
    postings: list[PostingAnswer]


async def reading(
    request: Request,
    access: Annotated[Access, Depends(Requires("ledger:read"))],
    book: Annotated[
        Book | None,
        Query(description="Operators read `platform` by default, everybody else `tenant`."),
    ] = None,
) -> Reader:
    """Whose book is read; `platform` is for the platform's staff alone.

    Raises:
        Forbidden: somebody else asked for the platform's book.
    """
    if book == "platform" and not access.caller.operator:
        gate: Gate = request.app.state.gate
        access = await gate.admit(request, OPERATOR)
    if book is None:
        book = "platform" if access.caller.operator else "tenant"
    tenant_id = None if access.whole_platform else access.tenant_id
    return Reader(request.app.state.database, tenant_id, access.mode, book)


async def check_book(request: Request, access: Access, book: Book) -> None:
    """The caller may write in this book.

    Raises:
        Forbidden: it is the platform's, and the caller is none of its staff.
    """
    if book not in access.books:
        gate: Gate = request.app.state.gate
        await gate.refuse(
            request, access, OPERATOR, "Only the platform's staff writes in the book `platform`."
        )


Reading = Annotated[Reader, Depends(reading)]
CurrencyQuery = Annotated[Currency | None, Query()]


@router.get("/api/v1/ledger/trial-balance")
async def get_trial_balance(
    reader: Reading,
    currency: CurrencyQuery = None,
    period: Annotated[
        str | None,
        Query(
            max_length=7,
            pattern=PERIOD,
            description="As it was at the end of this month in UTC, e.g. `2026-03`, by effective "
            "time: each account's balance on the side it stands on.",
        ),
    ] = None,
) -> TrialBalance:
    """The trial balance of a book; an operator who names no tenant gets the whole book.

    Raises:
        InvalidFields: a month, and no tenant.
    """
    if period is not None and reader.tenant_id is None:
        raise InvalidFields("Name the tenant by `X-Tenant-ID`: months are closed by tenant.")
    rows = [
        TrialBalanceRow(
            account=row["account"],
            type=row["type"],
            currency=row["currency"],
            debit_minor=int(row["debit_minor"]),
            credit_minor=int(row["credit_minor"]),
        )
        for row in await books.balances(reader, currency, Period.named(period) if period else None)
    ]
    totals = [
        TrialBalanceTotal(
            currency=code,
            debit_minor=sum(row.debit_minor for row in rows if row.currency == code),
            credit_minor=sum(row.credit_minor for row in rows if row.currency == code),
        )
        for code in sorted({row.currency for row in rows})
    ]
    return TrialBalance(book=reader.book, mode=reader.mode, rows=rows, totals=totals)


@router.get("/api/v1/ledger/accounts")
async def list_accounts(reader: Reading, currency: CurrencyQuery = None) -> AccountList:
    """What stands on each account of a book."""
    return AccountList(
        items=[_account(row) for row in await books.balances(reader, currency)],
    )


@router.get("/api/v1/ledger/entries")
async def list_entries(
    reader: Reading,
    page: Annotated[PageRequest, Depends(page_request)],
    account: Annotated[
        str | None, Query(max_length=200, description="e.g. `asset:receivable`")
    ] = None,
    source_key: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[EntryAnswer]:
    """Journal entries with their postings, newest first."""
    position = page.after(UUID)
    found = await books.entries(
        reader,
        account=account,
        source_key=source_key,
        before=position[0] if position else None,
        limit=page.limit + 1,
    )
    return Page[EntryAnswer].of(found, page.limit, lambda pair: (pair[0]["id"],), entry_answer)


def _account(row: Row) -> AccountBalance:
    net = int(row["debit_minor"] - row["credit_minor"])
    balance_minor = net if row["normal_side"] == "debit" else -net
    held_minor = int(row["held_minor"])
    return AccountBalance(
        account=row["account"],
        type=row["type"],
        normal_side=row["normal_side"],
        currency=row["currency"],
        balance_minor=balance_minor,
        held_minor=held_minor,
        available_minor=balance_minor - held_minor,
    )


def check_effective_at(effective_at: datetime, now: datetime, field: str) -> None:
    """Check when an entry is to hold.

    Args:
        now: of the tenant's business time.
        field: in which it was asked for.

    Raises:
        InvalidFields: nothing is booked so early, or so far ahead.
    """
    if not EARLIEST <= effective_at <= now + AHEAD_MAX:
        words = "Must lie between the year 2000 and a year ahead."
        raise InvalidFields(fields=[FieldProblem(field=field, detail=words)])


def entry_answer(pair: tuple[Row, list[Row]]) -> EntryAnswer:
    """An entry with its postings, as the API shows it."""
    row, postings = pair
    return EntryAnswer(
        id=public_id("entry", row["id"]),
        tenant_id=row["tenant_id"],
        book=row["book"],
        source_key=row["source_key"],
        effective_at=row["effective_at"],
        booked_at=row["booked_at"],
        causation_id=row["causation_id"],
        rule=row["rule"],
        rule_version=row["rule_version"],
        reverses=public_id("entry", row["reverses"]) if row["reverses"] else None,
        belongs_to=row["belongs_to"],
        true_effective_at=row["true_effective_at"],
        chain_seq=row["chain_seq"],
        chain_hash=row["chain_hash"].hex(),
        metadata=row["metadata"] or {},
        postings=[
            PostingAnswer(**{name: line[name] for name in PostingAnswer.model_fields})
            for line in postings
        ],
    )
