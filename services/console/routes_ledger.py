"""`/ledger`: the trial balance of a book, and its latest journal entries."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from services.console.routes import PageRoute, SignedIn, page
from services.console.shapes import Entry, Listed, TrialBalance

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE_SIZE = "25"
Cursor = Annotated[str | None, Query(max_length=1024)]
BookQuery = Annotated[Literal["platform", "tenant"] | None, Query()]
Account = Annotated[str | None, Query(max_length=200)]


@router.get("/ledger")
async def show_ledger(
    request: Request,
    viewer: SignedIn,
    book: BookQuery = None,
    account: Account = None,
    cursor: Cursor = None,
) -> Response:
    """A book of the tenant in view, or of the whole platform."""
    chosen = book or ("platform" if viewer.operator else "tenant")
    balance = await viewer.api.read(TrialBalance, "/api/v1/ledger/trial-balance", book=chosen)
    entries = await viewer.api.read(
        Listed[Entry],
        "/api/v1/ledger/entries",
        book=chosen,
        account=account or None,
        limit=PAGE_SIZE,
        cursor=cursor,
    )
    return page(
        request,
        "ledger.html",
        viewer,
        book=chosen,
        balance=balance,
        entries=entries.items,
        account=account,
        cursor=entries.next_cursor,
    )
