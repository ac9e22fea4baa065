"""`/settings/api-keys`: the tenant's API keys; a new one's secret is shown once."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from libs.clock import format_time, utc_now
from libs.ids import new_id
from services.console.forms import Once, OwnForm, Several, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.rights import PERMISSIONS
from services.console.routes import OfTenant, PageRoute, page, segment
from services.console.shapes import Listed
from services.console.shapes_settings import ApiKey, MadeApiKey
from services.console.view import MODES, Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/api-keys"
API = "/api/v1/api-keys"
PAGE_SIZE = "200"
OVERLAPS = (("86400", "1 day"), ("3600", "1 hour"), ("604800", "7 days"), ("0", "none: end it now"))
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get(PATH)
async def list_keys(request: Request, viewer: OfTenant, cursor: Cursor = None) -> Response:
    """Every key, those that are good for something first."""
    return await _show(request, viewer, None, cursor=cursor)


@router.post(PATH, dependencies=[OwnForm])
async def make_key(
    request: Request,
    viewer: OfTenant,
    name: Text = "",
    scopes: Several = [],  # noqa: B006 - FastAPI makes a new one for each request
    mode: Text = MODES[0],
    expires: Text = "",
    once: Once = "",
) -> Response:
    """Make a key and show it; the same form sent again shows the same key."""
    try:
        body = {"name": name, "scopes": scopes, "mode": mode, "expires_at": _end_of(expires)}
        made = await viewer.api.make(MadeApiKey, API, body, once=once)
    except ApiProblem as problem:
        return await _show(request, viewer, shown(problem))
    return page(request, "key_made.html", viewer, key=made, old=None)


@router.post(PATH + "/{key}/rotate", dependencies=[OwnForm])
async def rotate_key(
    request: Request, viewer: OfTenant, key: str, overlap: Text = "86400", once: Once = ""
) -> Response:
    """Make the key's successor and show it."""
    try:
        seconds = int(overlap) if overlap.isascii() and overlap.isdigit() else -1
        path = f"{API}/{segment(key)}/rotate"
        made = await viewer.api.make(MadeApiKey, path, {"overlap_seconds": seconds}, once=once)
    except ApiProblem as problem:
        return await _show(request, viewer, shown(problem))
    return page(request, "key_made.html", viewer, key=made, old=key)


@router.post(PATH + "/{key}/revoke", dependencies=[OwnForm])
async def revoke_key(request: Request, viewer: OfTenant, key: str, reason: Text = "") -> Response:
    """Revoke a key for good."""
    work = viewer.api.change("DELETE", f"{API}/{segment(key)}", reason=reason.strip() or None)
    return await attempt(request, viewer, work, _show, PATH, "key_revoked")


async def _show(
    request: Request, viewer: Viewer, problem: ApiProblem | None, cursor: str | None = None
) -> Response:
    found = await viewer.api.read(Listed[ApiKey], API, limit=PAGE_SIZE, cursor=cursor)
    now = utc_now()
    keys = sorted(
        ((key, key.state(now)) for key in found.items), key=lambda each: each[0].created_at
    )
    return page(
        request,
        "keys.html",
        viewer,
        problem=problem,
        usable=[key for key, state in keys if state == "active"],
        ended=[(key, state) for key, state in reversed(keys) if state != "active"],
        cursor=found.next_cursor,
        permissions=PERMISSIONS,
        overlaps=OVERLAPS,
        once=new_id,
        soon=now + timedelta(days=7),
    )


def _end_of(day: str) -> str | None:
    """The end of a day, UTC, as the API wants times; None for no day.

    Raises:
        ApiProblem: that is no day.
    """
    if not day:
        return None
    try:
        end = datetime.combine(date.fromisoformat(day), time.max, UTC).replace(microsecond=0)
    except ValueError:
        raise ApiProblem(422, "The last day must be a date, written as 2027-01-31.") from None
    return format_time(end)
