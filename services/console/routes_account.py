"""`/settings/account`: one's own sessions and password."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from services.console.forms import OwnForm, attempt
from services.console.origin import ApiProblem
from services.console.routes import PageRoute, SignedIn, page, segment
from services.console.shapes import Listed
from services.console.shapes_settings import OwnSession
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/account"
SESSIONS = "/api/v1/sessions"
PASSWORD = "/api/v1/session/password"  # noqa: S105 - a path of the API
Password = Annotated[str, Form(max_length=1024)]


@router.get(PATH)
async def show_account(request: Request, viewer: SignedIn) -> Response:
    """Where one is signed in."""
    return await _show(request, viewer, None)


@router.post(PATH + "/sessions/end-others", dependencies=[OwnForm])
async def end_other_sessions(request: Request, viewer: SignedIn) -> Response:
    """Stay signed in here only."""
    work = viewer.whole.change("DELETE", SESSIONS)
    return await attempt(request, viewer, work, _show, PATH, "sessions_ended")


@router.post(PATH + "/sessions/{session}/end", dependencies=[OwnForm])
async def end_session(request: Request, viewer: SignedIn, session: str) -> Response:
    """End one session."""
    work = viewer.whole.change("DELETE", f"{SESSIONS}/{segment(session)}")
    return await attempt(request, viewer, work, _show, PATH, "session_ended")


@router.post(PATH + "/password", dependencies=[OwnForm])
async def change_password(
    request: Request,
    viewer: SignedIn,
    old: Password = "",
    new: Password = "",
    again: Password = "",
) -> Response:
    """Change the password; every other session ends."""
    if new != again:
        problem = ApiProblem(422, "The new password was typed differently the second time.")
        return await _show(request, viewer, problem)
    body = {"old_password": old, "new_password": new}
    work = viewer.whole.change("PUT", PASSWORD, body)
    return await attempt(request, viewer, work, _show, PATH, "password_changed")


async def _show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
    found = await viewer.whole.read(Listed[OwnSession], SESSIONS)
    return page(request, "account.html", viewer, problem=problem, sessions=found.items)
