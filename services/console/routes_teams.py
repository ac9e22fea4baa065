"""`/settings/teams`: named groups of the tenant's members."""

from fastapi import APIRouter, Request, Response

from libs.ids import new_id
from services.console.forms import Once, OwnForm, Text, attempt
from services.console.origin import ApiProblem
from services.console.routes import OfTenant, PageRoute, page, segment
from services.console.shapes import Listed
from services.console.shapes_settings import Member, Team
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/teams"
API = "/api/v1/teams"
SHOWN = "200"


@router.get(PATH)
async def list_teams(request: Request, viewer: OfTenant) -> Response:
    """Every team."""
    return await _show(request, viewer, None)


@router.post(PATH, dependencies=[OwnForm])
async def make_team(
    request: Request, viewer: OfTenant, name: Text = "", once: Once = ""
) -> Response:
    """Make a team, empty at first."""
    work = viewer.api.change("POST", API, {"name": name}, once=once)
    return await attempt(request, viewer, work, _show, PATH, "team_made")


@router.get(PATH + "/{team}")
async def show_team(request: Request, viewer: OfTenant, team: str) -> Response:
    """A team and its members."""
    return await _Page(segment(team)).show(request, viewer, None)


@router.post(PATH + "/{team}/rename", dependencies=[OwnForm])
async def rename_team(request: Request, viewer: OfTenant, team: str, name: Text = "") -> Response:
    """Give a team another name."""
    place = _Page(segment(team))
    work = viewer.api.change("PATCH", place.api, {"name": name})
    return await attempt(request, viewer, work, place.show, place.path, "team_renamed")


@router.post(PATH + "/{team}/remove", dependencies=[OwnForm])
async def remove_team(request: Request, viewer: OfTenant, team: str) -> Response:
    """Remove a team; its members stay members of the tenant."""
    place = _Page(segment(team))
    work = viewer.api.change("DELETE", place.api)
    return await attempt(request, viewer, work, place.show, PATH, "team_removed")


@router.post(PATH + "/{team}/add", dependencies=[OwnForm])
async def add_member(request: Request, viewer: OfTenant, team: str, user: Text = "") -> Response:
    """Put a member into a team."""
    place = _Page(segment(team))
    work = viewer.api.change("PUT", f"{place.api}/members/{segment(user)}")
    return await attempt(request, viewer, work, place.show, place.path, "team_joined")


@router.post(PATH + "/{team}/members/{user}/remove", dependencies=[OwnForm])
async def take_out(request: Request, viewer: OfTenant, team: str, user: str) -> Response:
    """Take a member out of a team."""
    place = _Page(segment(team))
    work = viewer.api.change("DELETE", f"{place.api}/members/{segment(user)}")
    return await attempt(request, viewer, work, place.show, place.path, "team_left")


async def _show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
    found = await viewer.api.read(Listed[Team], API, limit=SHOWN)
    return page(request, "teams.html", viewer, problem=problem, teams=found.items, once=new_id)


class _Page:
    """The page of one team."""

    def __init__(self, team: str) -> None:
        self.path = f"{PATH}/{team}"
        self.api = f"{API}/{team}"

    async def show(self, request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        team = await viewer.api.read(Team, self.api)
        inside = await viewer.api.read(Listed[Member], f"{self.api}/members", limit=SHOWN)
        everybody = await viewer.api.read(Listed[Member], "/api/v1/members", limit=SHOWN)
        known = {each.user for each in inside.items}
        return page(
            request,
            "team.html",
            viewer,
            problem=problem,
            team=team,
            members=inside.items,
            others=[each for each in everybody.items if each.user not in known],
        )
