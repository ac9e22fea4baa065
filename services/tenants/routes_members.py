"""`/api/v1/members`: who may act for the tenant, with which role and which further permissions.

Nobody becomes a member here: see `routes_invitations`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from libs.clock import utc_now
from libs.db.pool import Database, Row
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, NotFound, problem_responses
from services.tenants import members, roles
from services.tenants.answers import stamp
from services.tenants.authority import BeyondAuthorityError
from services.tenants.bodies import StrictBody
from services.tenants.roles import Role, permissions_of

router = APIRouter(tags=["members"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]
PageWanted = Annotated[PageRequest, Depends(page_request)]

Permission = Literal[
    "usage:write",
    "usage:read",
    "billing:read",
    "billing:manage",
    "ledger:read",
    "ledger:post",
    "members:manage",
    "tenants:read",
    "tenants:manage",
]
FurtherPermissions = Annotated[
    list[Permission],
    Field(max_length=len(roles.SCOPES), description="What the member may do beyond its role."),
]


class MemberBody(BaseModel):
    """A member of the tenant."""

    user: str = Field(description="The user's id; it names the member in paths.")
    email: str
    name: str | None
    role: Role
    permissions: list[str] = Field(description="Beyond the role.")
    all_permissions: list[str] = Field(description="By the role, and beyond it.")
    created_at: datetime


class MemberChangeBody(StrictBody):
    """What becomes another; what is left out stays as it is."""

    role: Role | None = None
    permissions: FurtherPermissions | None = None

    @model_validator(mode="after")
    def _something(self) -> "MemberChangeBody":
        if self.role is None and self.permissions is None:
            raise ValueError("Name a role, permissions, or both.")
        return self


@router.get("/api/v1/members")
async def list_members(request: Request, access: Manager, page: PageWanted) -> Page[MemberBody]:
    """The tenant's members, the oldest first."""
    database: Database = request.app.state.database
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with database.tenant(access.tenant_id, None) as tx:
        rows = await members.list_all(tx, after, page.limit + 1)
    return Page[MemberBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["user_id"]), member_body
    )


@router.get("/api/v1/members/{user}", responses=problem_responses(NotFound))
async def get_member(request: Request, user: str, access: Manager) -> MemberBody:
    """One member."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, None) as tx:
        row = await members.find(tx, user_id_of(user))
    if row is None:
        raise NotFound
    return member_body(row)


@router.patch(
    "/api/v1/members/{user}",
    response_model=MemberBody,
    responses=problem_responses(Forbidden, NotFound, Conflict),
)
async def change_member(
    request: Request, user: str, body: MemberChangeBody, access: Manager
) -> JSONResponse:
    """Give a member another role or other permissions; known everywhere within two seconds.

    Nobody gives or takes more than they have, only owners make and unmake owners, nobody raises
    themselves, and one owner always stays.
    """
    database: Database = request.app.state.database
    permissions = None if body.permissions is None else frozenset[str](body.permissions)
    async with refusals(request, access), database.tenant(access.tenant_id, None) as tx:
        row = await members.change(
            tx,
            user_id_of(user),
            role=body.role,
            permissions=permissions,
            actor=access.caller.actor,
            at=utc_now(),
        )
    answer = JSONResponse(member_body(row).model_dump(mode="json"))
    await stamp(answer, database, access.tenant_id)
    return answer


@router.delete(
    "/api/v1/members/{user}",
    status_code=204,
    responses=problem_responses(Forbidden, NotFound, Conflict),
)
async def remove_member(request: Request, user: str, access: Manager) -> Response:
    """Remove a member; it may nothing any more within two seconds, and what it invited is void."""
    database: Database = request.app.state.database
    async with refusals(request, access), database.tenant(access.tenant_id, None) as tx:
        actor = access.caller.actor
        await members.remove(tx, user_id_of(user), actor=actor, at=utc_now())
    answer = Response(status_code=204)
    await stamp(answer, database, access.tenant_id)
    return answer


@asynccontextmanager
async def refusals(request: Request, access: Access) -> AsyncGenerator[None, None]:
    """What members cannot do to each other, as problems."""
    gate: Gate = request.app.state.gate
    try:
        yield
    except members.UnknownMemberError:
        raise NotFound from None
    except BeyondAuthorityError:
        sentence = "You can neither give nor take more than you have here yourself."
        await gate.refuse(request, access, "members:manage", sentence)
    except members.SelfPromotionError:
        sentence = "Nobody raises themselves. Ask another owner or admin."
        await gate.refuse(request, access, "members:manage", sentence)
    except members.LastOwnerError:
        raise Conflict(
            "A tenant keeps at least one owner. Make somebody else an owner first.",
            code="last_owner",
        ) from None
    except members.TooManyMembersError:
        raise Conflict(
            f"A tenant has at most {members.MEMBERS_MAX} members. Remove one first.",
            code="too_many_members",
        ) from None


def user_id_of(reference: str) -> UUID:
    """The user that a path names.

    Raises:
        NotFound: it cannot be one.
    """
    try:
        return parse_public_id("user", reference)
    except InvalidIdError:
        raise NotFound from None


def member_body(row: Row) -> MemberBody:
    """A member as the API shows it."""
    return MemberBody(
        user=public_id("user", row["user_id"]),
        email=row["email"],
        name=row["name"],
        role=row["role"],
        permissions=sorted(row["permissions"]),
        all_permissions=sorted(permissions_of(row["role"], row["permissions"])),
        created_at=row["created_at"],
    )
