"""`/api/v1/teams`: named groups of the tenant's members."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, NotFound, problem_responses
from services.tenants import teams
from services.tenants.bodies import Name, StrictBody
from services.tenants.members import UnknownMemberError
from services.tenants.routes_members import MemberBody, member_body, user_id_of

router = APIRouter(tags=["teams"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]
PageWanted = Annotated[PageRequest, Depends(page_request)]


class TeamNameBody(StrictBody):
    """What a team is called; unique among the tenant's, in whatever case."""

    name: Name


class TeamBody(BaseModel):
    """A team."""

    id: str
    name: str
    everyone: bool = Field(
        description="Everybody joins it who accepts an invitation to a `user` tenant."
    )
    members: int
    created_by: str
    created_at: datetime


@router.post(
    "/api/v1/teams",
    status_code=201,
    response_model=TeamBody,
    responses=problem_responses(Conflict),
)
async def create_team(request: Request, body: TeamNameBody, access: Manager) -> JSONResponse:
    """Make a team, empty at first."""
    database: Database = request.app.state.database

    async def work(tx: Tx) -> TeamBody:
        return _body(await teams.make(tx, body.name, access.caller.actor, utc_now()))

    with _refusals():
        return await answer_once(request, access, database, body, work)


@router.get("/api/v1/teams")
async def list_teams(request: Request, access: Manager, page: PageWanted) -> Page[TeamBody]:
    """The tenant's teams, the oldest first."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, None) as tx:
        rows = await teams.list_all(tx, _after(page), page.limit + 1)
    return Page[TeamBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["team_id"]), _body
    )


@router.get("/api/v1/teams/{team}", responses=problem_responses(NotFound))
async def get_team(request: Request, team: str, access: Manager) -> TeamBody:
    """One team."""
    database: Database = request.app.state.database
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            return _body(await teams.find(tx, _team_id(team)))


@router.patch("/api/v1/teams/{team}", responses=problem_responses(NotFound, Conflict))
async def rename_team(request: Request, team: str, body: TeamNameBody, access: Manager) -> TeamBody:
    """Give a team another name."""
    database: Database = request.app.state.database
    actor = access.caller.actor
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            return _body(await teams.rename(tx, _team_id(team), body.name, actor, utc_now()))


@router.delete("/api/v1/teams/{team}", status_code=204, responses=problem_responses(NotFound))
async def remove_team(request: Request, team: str, access: Manager) -> Response:
    """Remove a team; its members stay members of the tenant."""
    database: Database = request.app.state.database
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            await teams.remove(tx, _team_id(team), access.caller.actor, utc_now())
    return Response(status_code=204)


@router.get("/api/v1/teams/{team}/members", responses=problem_responses(NotFound))
async def list_team_members(
    request: Request, team: str, access: Manager, page: PageWanted
) -> Page[MemberBody]:
    """The members of a team, in the order they joined it."""
    database: Database = request.app.state.database
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            rows = await teams.list_members(tx, _team_id(team), _after(page), page.limit + 1)
    return Page[MemberBody].of(
        rows, page.limit, lambda row: (row["joined_at"], row["user_id"]), member_body
    )


@router.put("/api/v1/teams/{team}/members/{user}", responses=problem_responses(NotFound))
async def add_team_member(request: Request, team: str, user: str, access: Manager) -> MemberBody:
    """Put a member of the tenant into a team; again: the same answer."""
    database: Database = request.app.state.database
    actor = access.caller.actor
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            row = await teams.add_member(tx, _team_id(team), user_id_of(user), actor, utc_now())
    return member_body(row)


@router.delete(
    "/api/v1/teams/{team}/members/{user}", status_code=204, responses=problem_responses(NotFound)
)
async def remove_team_member(request: Request, team: str, user: str, access: Manager) -> Response:
    """Take a member out of a team."""
    database: Database = request.app.state.database
    actor = access.caller.actor
    with _refusals():
        async with database.tenant(access.tenant_id, None) as tx:
            await teams.remove_member(tx, _team_id(team), user_id_of(user), actor, utc_now())
    return Response(status_code=204)


@contextmanager
def _refusals() -> Generator[None, None, None]:
    try:
        yield
    except (teams.UnknownTeamError, UnknownMemberError):
        raise NotFound from None
    except teams.TeamNameTakenError:
        sentence = "Another team of this tenant has the name. Choose another."
        raise Conflict(sentence, code="team_name_taken") from None
    except teams.TooManyTeamsError:
        sentence = f"A tenant has at most {teams.TEAMS_MAX} teams. Remove one first."
        raise Conflict(sentence, code="too_many_teams") from None


def _after(page: PageRequest) -> tuple[datetime, UUID] | None:
    position = page.after(datetime, UUID)
    return (position[0], position[1]) if position else None


def _team_id(reference: str) -> UUID:
    try:
        return parse_public_id("team", reference)
    except InvalidIdError:
        raise NotFound from None


def _body(row: Row) -> TeamBody:
    return TeamBody(
        id=public_id("team", row["team_id"]),
        name=row["name"],
        everyone=row["everyone"],
        members=row["members"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
