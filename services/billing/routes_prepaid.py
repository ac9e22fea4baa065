"""`/api/v1/customers/{customer}/prepaid`: which meters a customer may use only as far as its credit pays."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.directory.local import business_now
from libs.ids import public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.problems import FieldProblem, InvalidFields, NotFound
from services.billing import plans, prepaid, subscriptions
from services.billing.catalog import MeterKey
from services.billing.rating import plain
from services.billing.routes_customers import IdPath, Reader, id_or_404

router = APIRouter(tags=["credits"])

METERS_MAX = 20


class PrepaidBody(BaseModel):
    """What is prepaid."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    meters: Annotated[list[MeterKey], Field(max_length=METERS_MAX)] = Field(
        description="Keys of the meters that credit bounds; none: credit bounds nothing. What costs "
        "nothing by the customer's plan is not bounded."
    )


class CreditLimitAnswer(BaseModel):
    """How much of a meter credit pays for, of what is used from `since` on."""

    meter: str
    since: datetime
    amount: str


class PrepaidAnswer(BaseModel):
    """What is prepaid, and how far credit goes now."""

    customer_id: str
    meters: list[str]
    limits: list[CreditLimitAnswer]


@router.get("/api/v1/customers/{customer}/prepaid")
async def get_prepaid(request: Request, customer: IdPath, access: Reader) -> PrepaidAnswer:
    """Which meters a customer may use only as far as its credit pays, and how far that is."""
    customer_id = id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        if await subscriptions.find_customer(tx, customer_id) is None:
            raise NotFound
        return _shape(customer_id, *await prepaid.limits_of(tx, customer_id))


@router.put("/api/v1/customers/{customer}/prepaid")
async def put_prepaid(
    request: Request,
    customer: IdPath,
    body: PrepaidBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> PrepaidAnswer:
    """Let a customer use these meters only as far as its credit pays.

    Checks and reservations refuse what goes beyond it. The credit is shared by these meters in equal
    parts, after the plan's fees.
    """
    customer_id = id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        found = await subscriptions.find_customer(tx, customer_id)
    if found is None:
        raise NotFound
    by_platform = found["billed_by"] == "platform"
    if by_platform and not access.caller.operator:
        gate: Gate = request.app.state.gate
        sentence = "Only the platform's staff say what is prepaid of its own plans."
        await gate.refuse(request, access, OPERATOR, sentence)
    owner = PLATFORM_TENANT_ID if by_platform else access.tenant_id
    missing = await plans.wait_for_meters(database, owner, access.mode, frozenset(body.meters))
    if missing:
        fields = [
            FieldProblem(field=f"body.meters.{place}", detail="No meter has this key.")
            for place, meter in enumerate(body.meters)
            if meter in missing
        ]
        sentence = "There is no such meter. Create it with `POST /api/v1/meters` first."
        raise InvalidFields(sentence, code="unknown_meter", fields=fields)
    now = business_now(access.tenant, access.mode)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        await prepaid.choose(tx, customer_id, body.meters, now, actor=access.caller.actor)
        return _shape(customer_id, *await prepaid.limits_of(tx, customer_id))


def _shape(customer_id: UUID, meters: list[str], limits: list[Row]) -> PrepaidAnswer:
    return PrepaidAnswer(
        customer_id=public_id("customer", customer_id),
        meters=meters,
        limits=[
            CreditLimitAnswer(meter=row["meter"], since=row["since"], amount=plain(row["amount"]))
            for row in limits
        ],
    )
