"""`/api/v1/key-rotations`, and shredding of a tenant: operators only."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    InvalidFields,
    NotFound,
    problem_responses,
)
from services.tenants import rotation, shredding
from services.tenants.answers import stamp
from services.tenants.bodies import StrictBody, TenantPath, TenantReference
from services.tenants.settings import Settings

router = APIRouter(tags=["keys and secrets"])

Operator = Annotated[Access, Depends(Requires(OPERATOR))]


class NewRotationBody(StrictBody):
    """What to rotate: the master key of all, or the data key of one tenant."""

    kind: Literal["master", "data"]
    tenant: TenantReference | None = None


class RotationBody(BaseModel):
    """How far a rotation has come; it goes on by itself, also after a restart."""

    id: str
    kind: Literal["master", "data"]
    tenant_id: UUID | None = Field(description="Whose data key; null for the master key.")
    state: Literal["sealing", "waiting", "done"] = Field(
        description="`sealing`: keys are wrapped or values sealed anew. `waiting`: until every "
        "service holds what was told. `done`: the old key may go."
    )
    master_key_id: str | None = Field(description="The master key that everything is under then.")
    total: int | None = Field(description="Data keys there are; null for a data key's rotation.")
    done: int
    waiting_for_holders: int = Field(
        description="Tenants of which a service does not hold the new record yet."
    )
    failure: str | None = Field(description="Why it does not get on; it is tried again.")
    started_at: datetime
    finished_at: datetime | None


class ShredBody(StrictBody):
    """Says it twice, because nothing brings it back."""

    confirm: str = Field(max_length=100, description="The tenant's slug.")
    stays: bool = Field(
        default=False,
        description="Whether the tenant goes on and enters its secrets anew. Else it is gone: what "
        "Stripe tells of it at the platform's own account is listed as unassigned.",
    )


class ShreddedBody(BaseModel):
    """What was destroyed."""

    tenant_id: UUID
    data_keys: int
    secrets: int


@router.post(
    "/api/v1/key-rotations",
    status_code=202,
    response_model=RotationBody,
    responses=problem_responses(Conflict),
)
async def start_rotation(request: Request, body: NewRotationBody, access: Operator) -> JSONResponse:
    """Rotate a key while everything goes on working.

    Master key: put the new key in place first (see docs/how-to/rotate-keys.md).
    """
    gate: Gate = request.app.state.gate
    database: Database = request.app.state.database
    tenant_id = PLATFORM_TENANT_ID
    if body.kind == "data":
        if body.tenant is None:
            problem = FieldProblem(field="body.tenant", detail="Name the tenant.")
            raise InvalidFields(fields=[problem])
        tenant_id = (await gate.for_tenant(request, access, body.tenant)).tenant_id
    elif body.tenant is not None:
        problem = FieldProblem(field="body.tenant", detail="The master key is no tenant's.")
        raise InvalidFields(fields=[problem])

    async def work(tx: Tx) -> RotationBody:
        here = tx.scope
        await tx.enter(Scope((tenant_id,), None))
        row = await rotation.begin(tx, body.kind, access.caller.actor, utc_now())
        await tx.enter(here)
        return _body(rotation.Progress(row, None, 0, 0))

    try:
        return await answer_once(request, access, database, body, work, status=202)
    except rotation.RotationUnderWayError:
        raise Conflict(
            "A rotation of this kind is under way. Wait until it is `done`.",
            code="rotation_under_way",
        ) from None


@router.get("/api/v1/key-rotations")
async def list_rotations(
    request: Request,
    access: Operator,  # noqa: ARG001 - the gate
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[RotationBody]:
    """Rotations, the newest first."""
    position = page.after(datetime, UUID)
    before = (position[0], position[1]) if position else None
    database: Database = request.app.state.database
    async with database.maintenance() as tx:
        found = await rotation.list_progress(tx, before, page.limit + 1)
    return Page[RotationBody].of(
        found,
        page.limit,
        lambda each: (each.row["started_at"], each.row["rotation_id"]),
        _body,
    )


@router.get("/api/v1/key-rotations/{rotation}", responses=problem_responses(NotFound))
async def get_rotation(
    request: Request,
    rotation_reference: Annotated[str, Path(alias="rotation", max_length=100)],
    access: Operator,  # noqa: ARG001 - the gate
) -> RotationBody:
    """How far a rotation has come."""
    try:
        rotation_id = parse_public_id("key_rotation", rotation_reference)
    except InvalidIdError:
        raise NotFound from None
    database: Database = request.app.state.database
    async with database.maintenance() as tx:
        progress = await rotation.read_progress(tx, rotation_id)
    if progress is None:
        raise NotFound
    return _body(progress)


@router.post(
    "/api/v1/tenants/{tenant}/shred",
    response_model=ShreddedBody,
    responses=problem_responses(Conflict, NotFound),
)
async def shred_tenant(
    request: Request,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    body: ShredBody,
    access: Operator,
) -> JSONResponse:
    """Destroy a tenant's data keys and secrets for good, in every copy; the ledger stays."""
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    try:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            done = await shredding.shred(
                tx, body.confirm, access.caller.actor, utc_now(), stays=body.stays
            )
    except shredding.ReservedTenantError:
        raise Conflict("This tenant is Sluice's own.", code="tenant_reserved") from None
    except shredding.NotConfirmedError:
        problem = FieldProblem(field="body.confirm", detail="Must be the slug of the tenant.")
        raise InvalidFields(fields=[problem]) from None
    settings.sealing.data_keys.forget(access.tenant_id)
    shown = ShreddedBody(tenant_id=access.tenant_id, data_keys=done.data_keys, secrets=done.secrets)
    answer = JSONResponse(shown.model_dump(mode="json"), 200)
    await stamp(answer, database, access.tenant_id)
    return answer


def _body(progress: rotation.Progress) -> RotationBody:
    row = progress.row
    return RotationBody(
        id=public_id("key_rotation", row["rotation_id"]),
        kind=row["kind"],
        tenant_id=None if row["kind"] == "master" else row["tenant_id"],
        state=row["state"],
        master_key_id=row["newest_id"],
        total=progress.total,
        done=progress.done,
        waiting_for_holders=progress.waiting_for_holders,
        failure=row["failure"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
