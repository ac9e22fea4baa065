"""`/settings/members`: who may act for the tenant, and who is invited to."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from libs.ids import new_id
from services.console.forms import Once, OwnForm, Several, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.rights import PERMISSIONS, ROLES
from services.console.routes import OfTenant, PageRoute, page, segment
from services.console.shapes import Listed
from services.console.shapes_settings import Invitation, MadeInvitation, Member
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/members"
MEMBERS = "/api/v1/members"
INVITATIONS = "/api/v1/invitations"
PAGE_SIZE = "50"
INVITATIONS_SHOWN = "200"
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get(PATH)
async def list_members(request: Request, viewer: OfTenant, cursor: Cursor = None) -> Response:
    """The members, and the invitations that wait."""
    return await _show(request, viewer, None, cursor=cursor)


@router.post(PATH + "/invite", dependencies=[OwnForm])
async def invite(
    request: Request,
    viewer: OfTenant,
    email: Text = "",
    role: Text = "member",
    permissions: Several = [],  # noqa: B006 - FastAPI makes a new one for each request
    once: Once = "",
) -> Response:
    """Make an invitation and show its link, once."""
    body = {"email": email.strip(), "role": role, "permissions": permissions}
    try:
        made = await viewer.api.make(MadeInvitation, INVITATIONS, body, once=once)
    except ApiProblem as problem:
        return await _show(request, viewer, shown(problem))
    return page(request, "invitation_made.html", viewer, invitation=made)


@router.post(PATH + "/invitations/{invitation}/withdraw", dependencies=[OwnForm])
async def withdraw_invitation(request: Request, viewer: OfTenant, invitation: str) -> Response:
    """Make an invitation void."""
    work = viewer.api.change("DELETE", f"{INVITATIONS}/{segment(invitation)}")
    return await attempt(request, viewer, work, _show, PATH, "invitation_withdrawn")


@router.post(PATH + "/{user}/change", dependencies=[OwnForm])
async def change_member(
    request: Request,
    viewer: OfTenant,
    user: str,
    role: Text = "",
    permissions: Several = [],  # noqa: B006 - FastAPI makes a new one for each request
) -> Response:
    """Give a member another role, or further permissions."""
    body = {"role": role, "permissions": permissions}
    work = viewer.api.change("PATCH", f"{MEMBERS}/{segment(user)}", body)
    return await attempt(request, viewer, work, _show, PATH, "member_changed")


@router.post(PATH + "/{user}/remove", dependencies=[OwnForm])
async def remove_member(request: Request, viewer: OfTenant, user: str) -> Response:
    """Take a member out of the tenant."""
    work = viewer.api.change("DELETE", f"{MEMBERS}/{segment(user)}")
    return await attempt(request, viewer, work, _show, PATH, "member_removed")


async def _show(
    request: Request, viewer: Viewer, problem: ApiProblem | None, cursor: str | None = None
) -> Response:
    members = await viewer.api.read(Listed[Member], MEMBERS, limit=PAGE_SIZE, cursor=cursor)
    waiting = await viewer.api.read(Listed[Invitation], INVITATIONS, limit=INVITATIONS_SHOWN)
    return page(
        request,
        "members.html",
        viewer,
        problem=problem,
        members=members.items,
        cursor=members.next_cursor,
        invitations=waiting.items,
        roles=ROLES,
        permissions=PERMISSIONS,
        once=new_id,
    )
