"""`/api/v1/customers/{customer}/personal-data`: given out, and erased for good."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database
from libs.ids import public_id
from libs.web.auth import Access, Requires
from libs.web.problems import NotFound, problem_responses
from services.billing import personal_data, subscriptions
from services.billing.routes_customers import CustomerAnswer, IdPath, id_or_404, shape_customer

router = APIRouter(tags=["personal data"])

Manager = Annotated[Access, Depends(Requires("billing:manage"))]
INVOICES_MAX = 1_000


class InvoiceOfPerson(BaseModel):
    """An invoice that names the customer."""

    id: str
    number: str | None
    currency: str
    total_minor: int
    created_at: datetime
    hosted_invoice_url: str | None = Field(description="At Stripe, with what Stripe knows.")


class CustomersPersonalData(BaseModel):
    """What billing knows of a customer; payments are at `/api/v1/payments`."""

    customer: CustomerAnswer
    erased_at: datetime | None
    invoices: list[InvoiceOfPerson] = Field(description="The newest 1,000.")


@router.get("/api/v1/customers/{customer}/personal-data", responses=problem_responses(NotFound))
async def export_customers_personal_data(
    request: Request, customer: IdPath, access: Manager
) -> CustomersPersonalData:
    """What is known of one customer."""
    customer_id = id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await subscriptions.find_customer(tx, customer_id)
        invoices = await personal_data.invoices_of(tx, customer_id, INVOICES_MAX)
    if row is None:
        raise NotFound
    return CustomersPersonalData(
        customer=shape_customer(access, row),
        erased_at=row["erased_at"],
        invoices=[
            InvoiceOfPerson(
                id=public_id("invoice", each["id"]),
                number=each["number"],
                currency=each["currency"],
                total_minor=each["total_minor"],
                created_at=each["created_at"],
                hosted_invoice_url=each["hosted_invoice_url"],
            )
            for each in invoices
        ],
    )


@router.delete(
    "/api/v1/customers/{customer}/personal-data",
    status_code=204,
    responses=problem_responses(NotFound),
)
async def erase_customers_personal_data(
    request: Request, customer: IdPath, access: Manager
) -> Response:
    """Erase who a customer is, here, in the payments and in archived webhooks; it is for ever.

    Invoices, amounts and ids stay. Delete the customer at Stripe first, or its next webhook brings
    its data back.
    """
    customer_id = id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        found = await personal_data.erase(tx, customer_id, actor=access.caller.actor, at=utc_now())
    if not found:
        raise NotFound
    return Response(status_code=204)
