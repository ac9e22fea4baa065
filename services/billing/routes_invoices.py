"""`/api/v1/invoices`: what was billed, and why each line costs what it costs."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database, Row
from libs.ids import public_id
from libs.web.pagination import Page
from libs.web.problems import NotFound
from services.billing import invoices
from services.billing.rating import plain
from services.billing.routes_customers import IdPath, Paging, Reader, id_or_404

router = APIRouter(tags=["invoices"])

Status = Literal["draft", "open", "paid", "void", "uncollectible"]


class InvoiceSummary(BaseModel):
    """An invoice without its lines. Amounts are minor units of `currency`; number null on drafts."""

    id: str
    status: Status
    number: str | None
    reason: str
    currency: str
    total_minor: int
    paid_minor: int
    credited_minor: int = Field(description="Taken back by credit notes before it was paid.")
    written_off_minor: int = Field(description="What nobody expects to be paid any more.")
    customer_id: str
    subscription_id: str | None
    period_from: datetime
    period_to: datetime
    stripe_invoice_id: str
    hosted_invoice_url: str | None
    completion_error: str | None = Field(
        description="Why Stripe would not complete the draft; null when nothing is wrong."
    )
    created_at: datetime
    finalized_at: datetime | None
    paid_at: datetime | None


class LineAnswer(BaseModel):
    """A line; `quantity` is decimal text, credit is negative."""

    id: str
    kind: Literal["flat", "usage", "proration", "credit"]
    description: str
    amount_minor: int
    meter: str | None
    quantity: str | None
    period_from: datetime | None
    period_to: datetime | None


class InvoiceAnswer(InvoiceSummary):
    """An invoice with its lines, which add up to `total_minor`."""

    lines: list[LineAnswer]


class TierShare(BaseModel):
    """The share of a quantity that fell into a tier, and what it cost before rounding."""

    up_to: str | None
    quantity: str
    unit_amount_minor: str
    amount_minor: str


class RoundingAnswer(BaseModel):
    """How the exact sum of the tiers became whole minor units."""

    rule: str
    exact_minor: str
    rounded_minor: int


class InvoicedBefore(BaseModel):
    """What earlier invoices charged for the same usage; the line is the difference."""

    amount_minor: int
    quantity: str


class ClosureAnswer(BaseModel):
    """The closed period whose quantity was rated."""

    id: UUID
    period_from: datetime
    period_to: datetime


class GrantShare(BaseModel):
    """How much of which grant was used."""

    grant_id: str
    amount_minor: int


class Explanation(BaseModel):
    """Everything needed to compute a line's amount again.

    A usage line: the tiers' amounts add up to `rounding.exact_minor`, which is rounded; less
    `previously_invoiced` that is the line's amount. A flat or proration line is Stripe's own.
    """

    line_id: str
    kind: str
    amount_minor: int
    currency: str
    meter: str | None
    quantity: str | None
    included: str | None
    billable: str | None
    tiers: list[TierShare]
    rounding: RoundingAnswer | None
    plan: str | None
    price_id: str | None
    price_version: int | None
    revision: int | None
    event_count: int | None
    closure: ClosureAnswer | None
    previously_invoiced: InvoicedBefore | None
    grants: list[GrantShare]
    stripe_line_id: str | None


@router.get("/api/v1/invoices")
async def list_invoices(
    request: Request,
    access: Reader,
    page: Paging,
    status: Annotated[Status | None, Query()] = None,
    subscription: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[InvoiceSummary]:
    """The tenant's invoices, newest first."""
    position = page.after(UUID)
    subscription_id = None if subscription is None else id_or_404("subscription", subscription)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await invoices.list_invoices(
            tx,
            status=status,
            subscription_id=subscription_id,
            before=position[0] if position else None,
            limit=page.limit + 1,
        )
    return Page[InvoiceSummary].of(
        rows, page.limit, lambda row: (row["id"],), lambda row: InvoiceSummary(**_members(row))
    )


@router.get("/api/v1/invoices/{invoice}")
async def get_invoice(request: Request, invoice: IdPath, access: Reader) -> InvoiceAnswer:
    """One invoice with its lines."""
    invoice_id = id_or_404("invoice", invoice)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        found = await invoices.find_invoice(tx, invoice_id)
    if found is None:
        raise NotFound
    row, lines = found
    return InvoiceAnswer(**_members(row), lines=[_shape_line(line) for line in lines])


@router.get("/api/v1/invoices/{invoice}/lines/{line}/explain")
async def explain_line(
    request: Request, invoice: IdPath, line: IdPath, access: Reader
) -> Explanation:
    """Why a line costs what it costs, step by step."""
    invoice_id, line_id = id_or_404("invoice", invoice), id_or_404("line", line)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        found = await invoices.find_invoice(tx, invoice_id)
    if found is None:
        raise NotFound
    row, lines = found
    wanted = next((one for one in lines if one["id"] == line_id), None)
    if wanted is None:
        raise NotFound
    return _shape_explanation(wanted, row["currency"])


def _members(row: Row) -> dict[str, object]:
    subscription_id = row["subscription_id"]
    return {
        "id": public_id("invoice", row["id"]),
        "customer_id": public_id("customer", row["customer_id"]),
        "subscription_id": subscription_id and public_id("subscription", subscription_id),
        **{
            name: row[name]
            for name in (
                "status",
                "number",
                "reason",
                "currency",
                "total_minor",
                "paid_minor",
                "credited_minor",
                "written_off_minor",
                "period_from",
                "period_to",
                "stripe_invoice_id",
                "hosted_invoice_url",
                "completion_error",
                "created_at",
                "finalized_at",
                "paid_at",
            )
        },
    }


def _shape_line(row: Row) -> LineAnswer:
    return LineAnswer(
        id=public_id("line", row["id"]),
        kind=row["kind"],
        description=row["description"],
        amount_minor=row["amount_minor"],
        meter=row["meter"],
        quantity=None if row["quantity"] is None else plain(row["quantity"]),
        period_from=row["period_from"],
        period_to=row["period_to"],
    )


def _shape_explanation(line: Row, currency: str) -> Explanation:
    steps = line["explanation"] or {}
    closure = None
    if "closure_id" in steps:
        closure = ClosureAnswer(
            id=steps["closure_id"], period_from=line["period_from"], period_to=line["period_to"]
        )
    price_id = steps.get("price_id")
    return Explanation(
        line_id=public_id("line", line["id"]),
        kind=line["kind"],
        amount_minor=line["amount_minor"],
        currency=currency,
        meter=line["meter"],
        quantity=steps.get("quantity"),
        included=steps.get("included"),
        billable=steps.get("billable"),
        tiers=steps.get("tiers", []),
        rounding=steps.get("rounding"),
        plan=steps.get("plan_key"),
        price_id=price_id and public_id("price", UUID(price_id)),
        price_version=steps.get("price_version"),
        revision=steps.get("revision"),
        event_count=steps.get("event_count"),
        closure=closure,
        previously_invoiced=steps.get("previously_invoiced"),
        grants=[
            GrantShare(
                grant_id=public_id("credit", UUID(share["grant_id"])),
                amount_minor=share["amount_minor"],
            )
            for share in steps.get("grants", [])
        ],
        stripe_line_id=line["stripe_line_id"],
    )
