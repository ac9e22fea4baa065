"""`/ledger/periods`: the months of a book that are closed; staff closes and reopens them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request, Response

from libs.ids import new_id
from services.console.forms import Once, OwnForm, Text, attempt
from services.console.origin import ApiProblem
from services.console.routes import OfTenant, PageRoute, page, segment
from services.console.routes_ledger import BOOKS, Book, ChosenBook
from services.console.shapes import Listed
from services.console.shapes_ledger import Period
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/ledger/periods"
PATH = "/ledger/periods"
PAGE_SIZE = "60"
Cursor = Annotated[str | None, Query(max_length=1024)]
FormBook = Annotated[Literal["platform", "tenant"], Form()]


@router.get(PATH)
async def list_periods(
    request: Request, viewer: OfTenant, book: ChosenBook, cursor: Cursor = None
) -> Response:
    """The months that were ever closed, newest first."""
    return await _show(request, viewer, book, None, cursor=cursor)


@router.post(PATH, dependencies=[OwnForm])
async def close_period(
    request: Request, viewer: OfTenant, book: FormBook, period: Text = "", once: Once = ""
) -> Response:
    """Close a month."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, book, problem, wanted=period)

    work = _change(viewer, period, "close", {"book": book}, once)
    return await attempt(request, viewer, work, show, PATH, "period_closed", book=book)


@router.post(PATH + "/{period}/reopen", dependencies=[OwnForm])
async def reopen_period(
    request: Request,
    period: str,
    viewer: OfTenant,
    book: FormBook,
    reason: Text = "",
    once: Once = "",
) -> Response:
    """Open the last closed month again."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, book, problem)

    work = _change(viewer, period, "reopen", {"book": book, "reason": reason.strip()}, once)
    return await attempt(request, viewer, work, show, PATH, "period_reopened", book=book)


async def _change(
    viewer: Viewer, period: str, what: str, body: dict[str, object], once: str
) -> None:
    path = f"{API}/{segment(period.strip())}/{what}"
    await viewer.api.change("POST", path, body, once=once or None)


async def _show(
    request: Request,
    viewer: Viewer,
    book: Book,
    problem: ApiProblem | None,
    *,
    cursor: str | None = None,
    wanted: str = "",
) -> Response:
    found = await viewer.api.read(Listed[Period], API, book=book, limit=PAGE_SIZE, cursor=cursor)
    last_closed = next((each.period for each in found.items if each.state == "closed"), None)
    return page(
        request,
        "ledger_periods.html",
        viewer,
        problem=problem,
        book=book,
        books=BOOKS,
        periods=found.items,
        last_closed=None if cursor else last_closed,
        cursor=found.next_cursor,
        wanted=wanted,
        once=new_id,
    )
