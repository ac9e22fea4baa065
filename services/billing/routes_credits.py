"""`/api/v1/credits` and the balance: money given beforehand."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import public_id
from libs.money import Currency, Money
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import FieldProblem, InvalidFields, NotFound
from libs.web.times import UtcTime
from services.billing import credit, subscriptions
from services.billing.routes_customers import Reader, id_or_404

router = APIRouter(tags=["credits"])

GRANT_MINOR_MAX = 10**13


class AmountBody(BaseModel):
    """Money to give: whole minor units, above zero."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    amount_minor: Annotated[int, Field(strict=True, gt=0, le=GRANT_MINOR_MAX)]
    currency: Currency


class CreditBody(BaseModel):
    """Credit for a customer; without `customer` for the tenant itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    customer: Annotated[str | None, Field(max_length=100)] = None
    amount: AmountBody
    expires_at: UtcTime | None = None
    tenant_id: Annotated[str | None, Field(min_length=1, max_length=100)] = Field(
        default=None, description="Id or slug of the tenant; instead of `X-Tenant-ID`."
    )


class CreditAnswer(BaseModel):
    """A grant of credit."""

    id: str
    customer_id: str
    amount: Money
    expires_at: datetime | None
    granted_at: datetime


class BalanceAnswer(BaseModel):
    """Credit granted minus used and expired, one amount per currency."""

    balances: list[Money]


@router.post("/api/v1/credits", status_code=201, response_model=CreditAnswer)
async def grant_credit(
    request: Request,
    body: CreditBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Give a customer credit that its invoices use up, the first to expire first."""
    gate: Gate = request.app.state.gate
    access = await gate.for_tenant(request, access, body.tenant_id)
    customer_id = None if body.customer is None else id_or_404("customer", body.customer)
    database: Database = request.app.state.database
    customer = await subscriptions.wait_for_customer(
        database, access.tenant_id, access.mode, customer_id
    )
    if customer is None:
        raise NotFound("There is no such customer. Check the id, and name the tenant.")
    if customer["billed_by"] == "platform" and not access.caller.operator:
        sentence = "Only the platform's staff give credit against its own invoices."
        await gate.refuse(request, access, OPERATOR, sentence)
    now = business_now(access.tenant, access.mode)
    if body.expires_at is not None and body.expires_at <= now:
        field = FieldProblem(field="body.expires_at", detail="Must be after the business time now.")
        raise InvalidFields(fields=[field])

    async def work(tx: Tx) -> CreditAnswer:
        return await _grant(tx, body, customer, now, access.caller.actor)

    return await answer_once(request, access, database, body, work)


async def _grant(
    tx: Tx, body: CreditBody, customer: Row, now: datetime, actor: str
) -> CreditAnswer:
    amount = Money(body.amount.amount_minor, body.amount.currency)
    grant_id: UUID = await credit.grant_credit(
        tx, customer["id"], customer["billed_by"], amount, body.expires_at, now, actor=actor
    )
    return CreditAnswer(
        id=public_id("credit", grant_id),
        customer_id=public_id("customer", customer["id"]),
        amount=amount,
        expires_at=body.expires_at,
        granted_at=now,
    )


@router.get("/api/v1/billing/balance")
async def get_balance(request: Request, access: Reader) -> BalanceAnswer:
    """What is left of the tenant's own credit, at its business time."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        customer = await subscriptions.find_self_customer(tx)
        if customer is None:
            return BalanceAnswer(balances=[])
        now = business_now(access.tenant, access.mode)
        return BalanceAnswer(balances=await credit.balances_of(tx, customer["id"], now))


@router.get("/api/billing/balance")
async def get_balance_alias(request: Request, access: Reader) -> BalanceAnswer:
    """The same as `/api/v1/billing/balance`."""
    return await get_balance(request, access)
