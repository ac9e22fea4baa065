"""`/ledger/reconciliation`: Stripe accounts compared with the books, and what differs."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from libs.ids import new_id
from services.console.days import times_of
from services.console.forms import Once, OwnForm, Text, attempt
from services.console.origin import ApiProblem
from services.console.pages import SECURITY_HEADERS
from services.console.routes import PageRoute, SignedIn, page, segment
from services.console.shapes import Listed
from services.console.shapes_ledger import BREAK_KINDS, REPAIRS, Break, Reconciliation
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

RUNS_API = "/api/v1/ledger/reconciliations"
BREAKS_API = "/api/v1/ledger/breaks"
PATH = "/ledger/reconciliation"
PAGE_SIZE = "50"
RUNS_SHOWN = "10"
EXPORT_HEADERS = ("content-type", "content-disposition")
STATES = (
    ("", "not resolved"),
    ("open", "open"),
    ("proposed", "proposed"),
    ("accepted", "accepted"),
    ("ignored", "ignored"),
    ("resolved", "resolved"),
)
Cursor = Annotated[str | None, Query(max_length=1024)]
Filter = Annotated[str, Query(max_length=100)]


def _wanted(state: Filter = "", kind: Filter = "", account: Filter = "") -> dict[str, str]:
    """The filters as the form names them."""
    return {"state": state, "kind": kind, "account": account.strip()}


Given = Annotated[dict[str, str], Depends(_wanted)]


@router.get(PATH)
async def show_reconciliation(
    request: Request, viewer: SignedIn, given: Given, cursor: Cursor = None
) -> Response:
    """The last runs and the breaks that fit, newest first."""
    return await _list(request, viewer, given, None, cursor)


@router.post(PATH, dependencies=[OwnForm])
async def start_reconciliation(
    request: Request,
    viewer: SignedIn,
    account: Text = "",
    begin: Text = "",
    end: Text = "",
    once: Once = "",
) -> Response:
    """Compare an account with the books now."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _list(request, viewer, _wanted(), problem, None)

    work = _start(viewer, account.strip(), begin.strip(), end.strip(), once)
    return await attempt(request, viewer, work, show, PATH, "reconciliation_asked")


async def _start(viewer: Viewer, account: str, begin: str, end: str, once: str) -> None:
    listed_from, listed_to = times_of(begin, end)
    body = {"account": account, "from": listed_from, "to": listed_to}
    given = {name: value for name, value in body.items() if value is not None}
    await viewer.api.change("POST", RUNS_API, given, once=once or None)


@router.get(PATH + "/export")
async def export_breaks(viewer: SignedIn, given: Given) -> Response:
    """The breaks that fit as CSV, as the API streams it."""
    async with AsyncExitStack() as stack:
        coming = viewer.api.stream(f"{BREAKS_API}/export", **_filters(given))
        answer = await stack.enter_async_context(coming)
        kept = stack.pop_all()

    async def content() -> AsyncGenerator[bytes, None]:
        async with kept:
            async for part in answer.aiter_bytes():
                yield part

    headers = {name: answer.headers[name] for name in EXPORT_HEADERS if name in answer.headers}
    return StreamingResponse(content(), headers={**SECURITY_HEADERS, **headers})


@router.get(PATH + "/runs/{run}")
async def show_run(request: Request, run: str, viewer: SignedIn) -> Response:
    """One run: what was compared, and what Stripe holds."""
    found = await viewer.api.read(Reconciliation, f"{RUNS_API}/{segment(run)}")
    return page(request, "reconciliation_run.html", viewer, run=found)


@router.get(PATH + "/breaks/{number}")
async def show_break(request: Request, number: str, viewer: SignedIn) -> Response:
    """One break with its history, and what can be done about it."""
    return await _show(request, viewer, number, None)


@router.post(PATH + "/breaks/{number}/accept", dependencies=[OwnForm])
async def accept_break(
    request: Request, number: str, viewer: SignedIn, account: Text = "", once: Once = ""
) -> Response:
    """Have a break repaired as proposed."""
    body: dict[str, object] = {"account": account.strip()} if account.strip() else {}
    return await _decide(request, viewer, number, "accept", body, once, "break_accepted")


@router.post(PATH + "/breaks/{number}/ignore", dependencies=[OwnForm])
async def ignore_break(
    request: Request, number: str, viewer: SignedIn, reason: Text = "", once: Once = ""
) -> Response:
    """Let a break be, with a reason."""
    body: dict[str, object] = {"reason": reason.strip()}
    return await _decide(request, viewer, number, "ignore", body, once, "break_ignored")


@router.post(PATH + "/breaks/{number}/assign", dependencies=[OwnForm])
async def assign_break(
    request: Request, number: str, viewer: SignedIn, owner: Text = "", once: Once = ""
) -> Response:
    """Give a break to one of the staff, or to nobody."""
    body: dict[str, object] = {"owner": owner.strip() or None}
    return await _decide(request, viewer, number, "assign", body, once, "break_assigned")


async def _decide(
    request: Request,
    viewer: Viewer,
    number: str,
    what: str,
    body: dict[str, object],
    once: str,
    done: str,
) -> Response:
    path = f"/breaks/{segment(number)}"

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, number, problem)

    api_path = f"{BREAKS_API}/{segment(number)}/{what}"
    work = viewer.api.change("POST", api_path, body, once=once or None)
    return await attempt(request, viewer, work, show, PATH + path, done)


async def _list(
    request: Request,
    viewer: Viewer,
    given: dict[str, str],
    problem: ApiProblem | None,
    cursor: str | None,
) -> Response:
    runs = await viewer.api.read(
        Listed[Reconciliation], RUNS_API, account=given["account"] or None, limit=RUNS_SHOWN
    )
    breaks = await viewer.api.read(
        Listed[Break], BREAKS_API, limit=PAGE_SIZE, cursor=cursor, **_filters(given)
    )
    last = next((each.account for each in runs.items), "" if viewer.tenant else "platform")
    return page(
        request,
        "reconciliation.html",
        viewer,
        problem=problem,
        runs=runs.items,
        breaks=breaks.items,
        cursor=breaks.next_cursor,
        wanted=given,
        filtered=any(given.values()),
        states=STATES,
        kinds=BREAK_KINDS,
        account=given["account"] or last,
        once=new_id,
    )


async def _show(
    request: Request, viewer: Viewer, number: str, problem: ApiProblem | None
) -> Response:
    found = await viewer.api.read(Break, f"{BREAKS_API}/{segment(number)}")
    return page(
        request,
        "reconciliation_break.html",
        viewer,
        problem=problem,
        found=found,
        meaning=BREAK_KINDS.get(found.kind),
        repair=REPAIRS.get(found.proposal.action) if found.proposal else None,
        once=new_id,
    )


def _filters(given: dict[str, str]) -> dict[str, str | None]:
    return {name: value or None for name, value in given.items()}
