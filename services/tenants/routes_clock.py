"""`/api/v1/tenants/{tenant}/clock`: the business clock of a tenant, in test mode."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import (
    Conflict,
    FieldProblem,
    InvalidFields,
    InvalidRequest,
    NotFound,
    problem_responses,
)
from libs.web.times import UtcTime
from services.tenants import clock
from services.tenants.answers import stamp
from services.tenants.bodies import StrictBody, TenantPath

router = APIRouter(tags=["clock"])


class AdvanceBody(StrictBody):
    """Where to move the clock: after its present time, at most two years on."""

    advance_to: UtcTime


class ClockBody(BaseModel):
    """Where the clock stands."""

    business_now: datetime
    status: Literal["ready", "advancing"]
    advance_to: datetime | None = Field(description="Where a move under way leads.")
    failure: str | None = Field(description="Why the last move ended early, if it did.")


@router.post(
    "/api/v1/tenants/{tenant}/clock",
    status_code=202,
    response_model=ClockBody,
    responses=problem_responses(Conflict),
)
async def advance_clock(
    request: Request,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    body: AdvanceBody,
    access: Annotated[Access, Depends(Requires(OPERATOR))],
) -> JSONResponse:
    """Move the clock forward; period ends on the way are billed as they are reached."""
    _refuse_live(access)
    database: Database = request.app.state.database

    async def work(tx: Tx) -> ClockBody:
        state = await clock.request_advance(tx, body.advance_to, access.caller.actor, utc_now())
        return _body(state)

    try:
        return await answer_once(request, access, database, body, work, status=202)
    except clock.ClockAdvancingError:
        raise Conflict(
            "The clock is being moved. Wait until its status is `ready`.", code="clock_advancing"
        ) from None
    except clock.ClockNotForwardError:
        raise _invalid("Must be after the business time now: the clock never goes back.") from None
    except clock.ClockTooFarError:
        raise _invalid(
            "Must be at most two years after the business time now, and twenty years from today."
        ) from None


@router.get("/api/v1/tenants/{tenant}/clock", responses=problem_responses(NotFound))
async def get_clock(
    request: Request,
    response: Response,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    access: Annotated[Access, Depends(Requires("tenants:read"))],
) -> ClockBody:
    """Where the clock stands, and whether it is being moved.

    `Sluice-Version` of the answer lets another service wait until it knows this time.
    """
    _refuse_live(access)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        state = await clock.read(tx, utc_now())
    if state is None:
        raise NotFound
    await stamp(response, database, access.tenant_id)
    return _body(state)


def _refuse_live(access: Access) -> None:
    if access.mode != "test":
        raise InvalidRequest(
            "Only the clock of test mode can be moved. Use a test key.", code="test_mode_only"
        )


def _invalid(detail: str) -> InvalidFields:
    return InvalidFields(fields=[FieldProblem(field="body.advance_to", detail=detail)])


def _body(state: clock.ClockState) -> ClockBody:
    return ClockBody(
        business_now=state.business_now,
        status=state.status,
        advance_to=state.advance_to,
        failure=state.failure,
    )
