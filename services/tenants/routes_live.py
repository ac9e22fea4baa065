"""`/api/v1/tenants/{tenant}/live`: what a tenant still needs for live mode, and the step itself."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database
from libs.web.auth import OPERATOR, OWNER, Access, Gate, Requires
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    problem_responses,
)
from services.tenants import going_live
from services.tenants.answers import stamp
from services.tenants.bodies import Name, StrictBody, TenantPath
from services.tenants.going_live import ITEM_KEYS, WHAT_TO_DO, Checklist, ItemKey, Step

router = APIRouter(tags=["tenants"])


class WaiverBody(StrictBody):
    """An item that need not be done, and why; operators only."""

    item: ItemKey
    reason: Name


class GoingLiveBody(StrictBody):
    """The step into live mode."""

    confirm_free_plan: bool = Field(
        default=False, description="The tenant means to begin on the free plan."
    )
    waive: list[WaiverBody] = Field(default=[], max_length=len(ITEM_KEYS))


class ItemBody(BaseModel):
    """One item of the checklist."""

    key: ItemKey
    done: bool
    waived: str | None = Field(description="The operator's reason, where it need not be done.")
    to_do: str | None = Field(description="What to do, while it is neither done nor waived.")


class LiveBody(BaseModel):
    """Whether live mode is open to the tenant, and the checklist of it."""

    live: bool
    live_since: datetime | None
    ready: bool = Field(description="Every item is done or waived.")
    items: list[ItemBody]


@router.get("/api/v1/tenants/{tenant}/live", responses=problem_responses(NotFound))
async def get_live_checklist(
    request: Request,
    access: Annotated[Access, Depends(Requires("tenants:read"))],
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
) -> LiveBody:
    """What the tenant still needs before it may go live."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        checklist = await going_live.read_checklist(tx)
    if checklist is None:
        raise NotFound
    return _body(checklist)


@router.post(
    "/api/v1/tenants/{tenant}/live", responses=problem_responses(Forbidden, NotFound, Conflict)
)
async def go_live(
    request: Request,
    response: Response,
    body: GoingLiveBody,
    access: Annotated[Access, Depends(Requires(OWNER))],
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
) -> LiveBody:
    """Open live mode to the tenant, once and for good. Again: the same answer."""
    database: Database = request.app.state.database
    gate: Gate = request.app.state.gate
    waivers = {waiver.item: waiver.reason for waiver in body.waive}
    if len(waivers) < len(body.waive):
        problem = FieldProblem(field="body.waive", detail="Name each item once.")
        raise InvalidFields(fields=[problem])
    if waivers and not access.caller.operator:
        await gate.refuse(request, access, OPERATOR, "Only operators waive items of the checklist.")
    step = Step(access.caller.actor, waivers, body.confirm_free_plan)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        try:
            checklist = await going_live.go_live(tx, step, utc_now())
        except going_live.NotReadyError as error:
            sentences = " ".join(WHAT_TO_DO[key] for key in error.open_items)
            raise Conflict(
                f"The tenant is not ready to go live. {sentences}",
                code="not_ready_to_go_live",
                title="Not ready to go live",
                extra={"open_items": list(error.open_items)},
            ) from None
    await stamp(response, database, access.tenant_id)
    return _body(checklist)


def _body(checklist: Checklist) -> LiveBody:
    return LiveBody(
        live=checklist.live_since is not None,
        live_since=checklist.live_since,
        ready=all(item.done or item.waived for item in checklist.items),
        items=[
            ItemBody(
                key=item.key,
                done=item.done,
                waived=item.waived,
                to_do=None if item.done or item.waived else WHAT_TO_DO[item.key],
            )
            for item in checklist.items
        ],
    )
