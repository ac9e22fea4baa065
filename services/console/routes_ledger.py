"""`/ledger`: a book's trial balance and entries, one account's statement, and the book as a file."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.console.days import times_of
from services.console.origin import ApiProblem
from services.console.pages import SECURITY_HEADERS
from services.console.routes import OfTenant, PageRoute, SignedIn, page
from services.console.shapes import Listed
from services.console.shapes_ledger import (
    AccountBalance,
    AccountRow,
    Entry,
    Hold,
    StatementLine,
    TrialBalance,
)
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/ledger"
PAGE_SIZE = "25"
STATEMENT_PAGE_SIZE = "50"
HOLDS_SHOWN = "50"
EXPORT_HEADERS = ("content-type", "content-disposition", "sluice-next-after")
FORMATS = (
    ("csv", "CSV"),
    ("jsonl", "JSON lines"),
    ("parquet", "Parquet"),
    ("hledger", "hledger journal"),
    ("beancount", "Beancount"),
)
BOOKS = (("platform", "Platform's book"), ("tenant", "Tenants' books"))

Book = Literal["platform", "tenant"]
Cursor = Annotated[str | None, Query(max_length=1024)]
Account = Annotated[str | None, Query(max_length=200)]
SourceKey = Annotated[str | None, Query(max_length=500)]
Period = Annotated[str | None, Query(max_length=7)]
Currency = Annotated[str | None, Query(max_length=3)]


_ACCOUNT = re.compile(r"[a-z]{1,20}(:[A-Za-z0-9_]{1,100}){1,5}")


def book_in_view(viewer: SignedIn, book: Annotated[Book | None, Query()] = None) -> Book:
    """The book that was chosen: without a choice staff sees the platform's, tenants their own."""
    return book or ("platform" if viewer.operator else "tenant")


ChosenBook = Annotated[Book, Depends(book_in_view)]


@router.get("/ledger")
async def show_ledger(
    request: Request,
    viewer: SignedIn,
    book: ChosenBook,
    account: Account = None,
    source: SourceKey = None,
    period: Period = None,
    cursor: Cursor = None,
) -> Response:
    """A book of the tenant in view, or of the whole platform; its sums as of the end of a month."""
    balance = await viewer.api.read(
        TrialBalance, f"{API}/trial-balance", book=book, period=period or None
    )
    accounts = await viewer.api.read(Listed[AccountRow], f"{API}/accounts", book=book)
    entries = await viewer.api.read(
        Listed[Entry],
        f"{API}/entries",
        book=book,
        account=account or None,
        source_key=source or None,
        limit=PAGE_SIZE,
        cursor=cursor,
    )
    return page(
        request,
        "ledger.html",
        viewer,
        book=book,
        books=BOOKS,
        balance=balance,
        held={
            (each.account, each.currency): each
            for each in accounts.items
            if each.held_minor and not period
        },
        entries=entries.items,
        account=account,
        source=source,
        period=period,
        cursor=entries.next_cursor,
        formats=FORMATS,
    )


@router.get("/ledger/accounts/{account}")
async def show_account(
    request: Request,
    account: str,
    viewer: OfTenant,
    book: ChosenBook,
    currency: Currency = None,
    cursor: Cursor = None,
) -> Response:
    """One account: what stands on it, what of it is held, and its postings with running balances."""
    place = f"{API}/accounts/{_account(account)}"
    found = await viewer.api.read(AccountBalance, f"{place}/balance", book=book)
    currencies = [each.currency for each in found.balances]
    if currency is not None and currency not in currencies:
        raise ApiProblem(404, "Nothing was ever posted there in this currency.", title="Not found")
    chosen = currency or next(iter(currencies), None)
    statement = await viewer.api.read(
        Listed[StatementLine],
        f"{place}/statement",
        book=book,
        currency=chosen,
        limit=STATEMENT_PAGE_SIZE,
        cursor=cursor,
    )
    return page(
        request,
        "ledger_account.html",
        viewer,
        book=book,
        found=found,
        currency=chosen,
        stands=next((each for each in found.balances if each.currency == chosen), None),
        lines=statement.items,
        cursor=statement.next_cursor,
        holds=await _open_holds(viewer, book, account, chosen),
    )


async def _open_holds(viewer: Viewer, book: Book, account: str, currency: str | None) -> list[Hold]:
    found = await viewer.api.read(
        Listed[Hold], f"{API}/holds", book=book, account=account, open="true", limit=HOLDS_SHOWN
    )
    return [each for each in found.items if each.currency == currency]


@router.get("/ledger/export")
async def export_ledger(
    viewer: OfTenant,
    book: ChosenBook,
    file_format: Annotated[
        Literal["csv", "jsonl", "parquet", "hledger", "beancount"], Query(alias="format")
    ] = "csv",
    begin: Annotated[str, Query(alias="from", max_length=40)] = "",
    end: Annotated[str, Query(alias="to", max_length=40)] = "",
) -> Response:
    """The book of the tenant in view as a file, as the API streams it."""
    effective_from, effective_to = times_of(begin, end)
    async with AsyncExitStack() as stack:
        coming = viewer.api.stream(
            f"{API}/export",
            format=file_format,
            book=book,
            from_=effective_from,
            to=effective_to,
        )
        answer = await stack.enter_async_context(coming)
        kept = stack.pop_all()

    async def content() -> AsyncGenerator[bytes, None]:
        async with kept:
            async for part in answer.aiter_bytes():
                yield part

    headers = {name: answer.headers[name] for name in EXPORT_HEADERS if name in answer.headers}
    return StreamingResponse(content(), headers={**SECURITY_HEADERS, **headers})


def _account(code: str) -> str:
    """An account's code as a segment of a path of the API.

    Raises:
        ApiProblem: 404 for whatever cannot be one.
    """
    if not _ACCOUNT.fullmatch(code):
        raise ApiProblem(404, "There is no such account. Open it from a link.", title="Not found")
    return code
