"""HTTP of stripe_sync: payments."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import NotFound, problem_responses
from services.stripe_sync import store_objects

router = APIRouter()


class Amount(BaseModel):
    """Money in whole minor units."""

    amount_minor: int
    currency: str


class PaymentBody(BaseModel):
    """A payment: one charge at Stripe."""

    id: str
    tenant_id: UUID
    customer_id: str
    mode: str
    status: str = Field(
        description="`PROCESSING`, `AUTHORIZED`, `COMPLETED`, `FAILED`, `PARTIALLY_REFUNDED` or "
        "`REFUNDED`."
    )
    amount: Amount
    refunded: Amount
    collected_by: str = Field(description="`platform` or `tenant`: whose Stripe account it is.")
    stripe_account: str
    stripe_charge_id: str
    stripe_payment_intent_id: str | None
    stripe_invoice_id: str | None
    stripe_payment_link_id: str | None
    failure_code: str | None
    receipt_number: str | None
    receipt_url: str | None
    receipt_email: str | None
    created_at: datetime
    paid_at: datetime | None


@router.get("/api/v1/payments")
async def list_payments(
    request: Request,
    access: Annotated[Access, Depends(Requires("billing:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[PaymentBody]:
    """List payments, newest first; an operator who names no tenant sees all of them."""
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with _reading(request.app.state.database, access) as tx:
        rows = await store_objects.list_payments(tx, access.mode, after, page.limit + 1)
    return Page[PaymentBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["payment_id"]), _body
    )


@router.get("/api/v1/payments/{payment}", responses=problem_responses(NotFound))
async def get_payment(
    request: Request, payment: str, access: Annotated[Access, Depends(Requires("billing:read"))]
) -> PaymentBody:
    """Read one payment."""
    try:
        payment_id = parse_public_id("payment", payment)
    except InvalidIdError:
        raise NotFound from None
    async with _reading(request.app.state.database, access) as tx:
        row = await store_objects.find_payment(tx, access.mode, payment_id)
    if row is None:
        raise NotFound
    return _body(row)


def _reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _body(row: Row) -> PaymentBody:
    currency = row["currency"]
    return PaymentBody(
        id=public_id("payment", row["payment_id"]),
        tenant_id=row["tenant_id"],
        customer_id=public_id("customer", row["customer_id"]),
        mode=row["mode"],
        status=row["status"],
        amount=Amount(amount_minor=row["amount_minor"], currency=currency),
        refunded=Amount(amount_minor=row["refunded_minor"], currency=currency),
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_charge_id=row["stripe_charge_id"],
        stripe_payment_intent_id=row["stripe_payment_intent_id"],
        stripe_invoice_id=row["stripe_invoice_id"],
        stripe_payment_link_id=row["stripe_payment_link_id"],
        failure_code=row["failure_code"],
        receipt_number=row["receipt_number"],
        receipt_url=row["receipt_url"],
        receipt_email=row["receipt_email"],
        created_at=row["created_at"],
        paid_at=row["paid_at"],
    )
