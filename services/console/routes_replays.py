"""`/webhooks/replays`: sending archived events again, first without any effect."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from libs.clock import utc_now
from libs.ids import new_id
from services.console.days import times_of
from services.console.forms import Once, OwnForm, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.pages import SECURITY_HEADERS
from services.console.routes import PageRoute, SignedIn, page, segment
from services.console.routes_webhooks import Given
from services.console.shapes import Listed
from services.console.shapes_payments import Differences, Replay
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/webhook-replays"
START = "/api/v1/webhook-events/replay"
PATH = "/webhooks/replays"
PAGE_SIZE = "50"
DIFFERENCES_SHOWN = "100"
ON_THEIR_WAY = timedelta(seconds=3)
NOTHING_TO_COMPARE = timedelta(seconds=15)
"""So long after a dry run has ended its events may still be on their way to be compared."""
Cursor = Annotated[str | None, Query(max_length=1024)]
Events = Annotated[str, Query(max_length=2000)]


@router.get(PATH)
async def list_replays(
    request: Request,
    viewer: SignedIn,
    given: Given,
    event: Events = "",
    cursor: Cursor = None,
) -> Response:
    """The runs so far, and the form that starts one."""
    wish = {**given, "event": event}
    return await _list(request, viewer, wish, None, cursor)


@router.post(PATH, dependencies=[OwnForm])
async def start_replay(
    request: Request,
    viewer: SignedIn,
    event: Text = "",
    kind: Text = "",
    object_id: Text = "",
    begin: Text = "",
    end: Text = "",
    really: Text = "",
    once: Once = "",
) -> Response:
    """Start a run: a dry run, unless its form was that of a dry run that has ended."""
    wish = {"event": event, "type": kind, "object": object_id, "from": begin, "to": end}
    try:
        body = _selection(wish)
        body["dry_run"] = really != "yes"
        run = await viewer.api.make(Replay, START, body, once=once or None)
    except ApiProblem as problem:
        return await _list(request, viewer, wish, shown(problem), None)
    return _to(viewer, run, event)


@router.get(PATH + "/{replay}")
async def show_replay(
    request: Request,
    replay: str,
    viewer: SignedIn,
    part: Annotated[Literal["progress"] | None, Query()] = None,
    event: Events = "",
) -> Response:
    """One run; `part=progress` is what the page refreshes itself with.

    The events that were named one by one stand in the address: the API tells only how many.
    """
    return await _show(request, viewer, replay, None, part=part, events=event)


@router.post(PATH + "/{replay}/run", dependencies=[OwnForm])
async def run_really(
    request: Request, replay: str, viewer: SignedIn, event: Text = "", once: Once = ""
) -> Response:
    """Send for good what a dry run selected."""
    try:
        dry = await viewer.api.read(Replay, f"{API}/{segment(replay)}")
        body = {**_tried(dry, _ids(event)), "dry_run": False}
        run = await viewer.api.make(Replay, START, body, once=once or None)
    except ApiProblem as problem:
        return await _show(request, viewer, replay, shown(problem), events=event)
    return _to(viewer, run, event)


@router.post(PATH + "/{replay}/cancel", dependencies=[OwnForm])
async def cancel_replay(request: Request, replay: str, viewer: SignedIn) -> Response:
    """Stop a run where it is; what was sent stays sent."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, replay, problem)

    work = viewer.api.change("POST", f"{API}/{segment(replay)}/cancel")
    return await attempt(request, viewer, work, show, f"{PATH}/{replay}", "replay_canceled")


def _selection(wish: Mapping[str, str]) -> dict[str, object]:
    """The API's filters of the events that are meant."""
    received_from, received_to = times_of(wish["from"].strip(), wish["to"].strip())
    given = {
        "ids": _ids(wish["event"]) or None,
        "type": wish["type"].strip() or None,
        "object_id": wish["object"].strip() or None,
        "received_from": received_from,
        "received_to": received_to,
    }
    return {name: value for name, value in given.items() if value is not None}


def _tried(dry: Replay, ids: list[str]) -> dict[str, object]:
    """The API's filters of the events that a dry run tried.

    Raises:
        ApiProblem: they were named one by one, and these are not they.
    """
    if dry.ids != (len(ids) or None):
        raise ApiProblem(409, "Choose the events once more, and try them first.")
    return {**dry.filters, "ids": ids} if ids else {**dry.filters}


def _ids(text: str) -> list[str]:
    """The ids that somebody wrote, with spaces or commas between them."""
    return text.replace(",", " ").split()


def _to(viewer: Viewer, run: Replay, events: str) -> Response:
    goal = viewer.link(f"{PATH}/{run.id}", event=" ".join(_ids(events)))
    return RedirectResponse(goal, 303, headers=SECURITY_HEADERS)


async def _list(
    request: Request,
    viewer: Viewer,
    wish: Mapping[str, str],
    problem: ApiProblem | None,
    cursor: str | None,
) -> Response:
    found = await viewer.api.read(Listed[Replay], API, limit=PAGE_SIZE, cursor=cursor)
    return page(
        request,
        "replays.html",
        viewer,
        problem=problem,
        replays=found.items,
        cursor=found.next_cursor,
        wish=wish,
        once=new_id,
    )


async def _show(
    request: Request,
    viewer: Viewer,
    replay: str,
    problem: ApiProblem | None,
    *,
    part: str | None = None,
    events: str = "",
) -> Response:
    path = f"{API}/{segment(replay)}"
    run = await viewer.api.read(Replay, path)
    differences = await _differences(viewer, path) if run.dry_run else None
    return page(
        request,
        "replay_progress.html" if part else "replay.html",
        viewer,
        problem=problem,
        run=run,
        events=events,
        differences=differences,
        settled=_settled(run, differences),
        once=new_id,
    )


async def _differences(viewer: Viewer, path: str) -> Differences | None:
    """What a dry run has found so far; None while nothing was compared."""
    try:
        return await viewer.api.read(Differences, f"{path}/differences", limit=DIFFERENCES_SHOWN)
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        return None


def _settled(run: Replay, differences: Differences | None) -> bool:
    """Whether a run shows all that it is going to show.

    What a dry run sent is compared by another service, a moment after it was sent.
    """
    if run.finished_at is None or not run.dry_run or not run.matched:
        return not run.running
    wait = ON_THEIR_WAY if differences else NOTHING_TO_COMPARE
    pending = differences.pending if differences else 0
    return not pending and utc_now() - run.finished_at >= wait
