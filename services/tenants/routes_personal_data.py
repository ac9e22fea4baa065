"""Personal data of people: given out, and erased for good (GDPR, articles 15, 17 and 20)."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database
from libs.ids import parse_public_id
from libs.web.auth import ANYONE_SIGNED_IN, Access, Gate, Requires
from libs.web.problems import Conflict, Forbidden, InvalidRequest, NotFound, problem_responses
from services.tenants import personal_data
from services.tenants.routes_members import refusals, user_id_of

router = APIRouter(tags=["personal data"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]
SignedIn = Annotated[Access, Depends(Requires(ANYONE_SIGNED_IN))]


class AuditActBody(BaseModel):
    """Something that the person did."""

    occurred_at: datetime
    action: str
    object_id: str | None
    remote_address: str | None


class PlaceBody(BaseModel):
    """What one tenant knows of the person."""

    tenant_id: UUID
    role: str
    permissions: list[str]
    member_since: datetime
    teams: list[dict[str, Any]]
    invitations: list[dict[str, Any]]
    audit_entries: list[AuditActBody] = Field(description="The newest 1,000.")


class PersonalDataBody(BaseModel):
    """What is known of a person."""

    user: str
    email: str
    name: str | None
    created_at: datetime
    tenants: list[PlaceBody]
    identities: list[dict[str, Any]] | None = Field(
        default=None, description="At identity providers; shown to the person only."
    )
    sessions: list[dict[str, Any]] | None = Field(
        default=None, description="Shown to the person only."
    )


@router.get("/api/v1/members/{user}/personal-data", responses=problem_responses(NotFound))
async def export_members_personal_data(
    request: Request, user: str, access: Manager
) -> PersonalDataBody:
    """What the tenant knows of one of its members."""
    database: Database = request.app.state.database
    try:
        async with database.tenant(access.tenant_id, None) as tx:
            found = await personal_data.export_of_member(tx, user_id_of(user))
    except personal_data.UnknownPersonError:
        raise NotFound from None
    return PersonalDataBody.model_validate(found)


@router.delete(
    "/api/v1/members/{user}/personal-data",
    status_code=204,
    responses=problem_responses(Forbidden, NotFound, Conflict),
)
async def erase_members_personal_data(request: Request, user: str, access: Manager) -> Response:
    """Erase a person who belongs to this tenant alone; it cannot be undone.

    Operators erase anybody. Books and audit log stay and name an id that says nothing any more.
    """
    database: Database = request.app.state.database
    user_id, actor, now = user_id_of(user), access.caller.actor, utc_now()
    async with refusals(request, access):
        try:
            async with database.tenant(access.tenant_id, None) as tx:
                if access.caller.operator:
                    await personal_data.erase(tx, user_id, actor=actor, at=now)
                else:
                    await personal_data.erase_member(tx, user_id, actor=actor, at=now)
        except personal_data.UnknownPersonError:
            raise NotFound from None
        except personal_data.BelongsElsewhereError:
            raise Conflict(
                "The person belongs to other tenants too. Remove the member; the person itself or "
                "an operator can have the rest erased.",
                code="belongs_elsewhere",
            ) from None
    return Response(status_code=204)


@router.get("/api/v1/session/personal-data", responses=problem_responses(Forbidden))
async def export_own_personal_data(request: Request, access: SignedIn) -> PersonalDataBody:
    """Everything known of the person who asks."""
    user_id = await _person(request, access)
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        found = await personal_data.export_whole(tx, user_id)
    return PersonalDataBody.model_validate(found)


@router.delete(
    "/api/v1/session/personal-data",
    status_code=204,
    responses=problem_responses(Forbidden, Conflict),
)
async def erase_own_personal_data(
    request: Request,
    access: SignedIn,
    confirm: Annotated[
        str, Query(max_length=100, description="The person's own id, `usr_…`: said on purpose.")
    ],
) -> Response:
    """Erase the person who asks, in every tenant; it cannot be undone.

    A tenant whose only owner the person is must get another one first.
    """
    user_id = await _person(request, access)
    if confirm != access.caller.actor:
        raise InvalidRequest("`confirm` must be your own id.", code="not_confirmed")
    database: Database = request.app.state.database
    async with refusals(request, access), database.transaction() as tx:
        await personal_data.erase(tx, user_id, actor=access.caller.actor, at=utc_now())
    return Response(status_code=204)


async def _person(request: Request, access: Access) -> UUID:
    """The person who asks.

    Raises:
        Forbidden: a key asks.
    """
    if access.caller.session_id is None:
        gate: Gate = request.app.state.gate
        sentence = "Personal data is people's. Sign in, and ask with an assertion."
        await gate.refuse(request, access, ANYONE_SIGNED_IN, sentence)
    return parse_public_id("user", access.caller.actor)
