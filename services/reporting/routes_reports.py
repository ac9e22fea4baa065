"""`/api/v1/reports`: revenue by month, and counts of invoices, payments, subscriptions, tenants."""

from datetime import UTC, date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.contracts.ledger import Book
from libs.directory.local import business_now
from libs.money import Currency
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.problems import Forbidden, InvalidFields, problem_responses
from services.reporting import reports
from services.reporting.reports import MONTHS_DEFAULT, MONTHS_MAX, Reader, RevenueMonth

router = APIRouter(tags=["reports"], responses=problem_responses(Forbidden))

Month = Annotated[
    str | None, Query(pattern=r"^(19|20|21)\d\d-(0[1-9]|1[0-2])$", examples=["2026-01"])
]


class RevenueItem(BaseModel):
    """What one month earned in one currency; refunds are negative parts of it."""

    month: str = Field(description="YYYY-MM, in UTC and business time.")
    currency: str
    revenue_minor: int
    by_kind: dict[str, int]


class RevenueReport(BaseModel):
    """Revenue by month and currency, oldest first; months without any are left out."""

    book: Book
    mode: Literal["test", "live"]
    items: list[RevenueItem]
    next_cursor: None = None


class InvoiceCount(BaseModel):
    """Invoices of one status and currency."""

    status: Literal["open", "paid"]
    currency: str
    invoices: int
    amount_minor: int


class PaymentCount(BaseModel):
    """Attempts to collect, of one outcome and currency."""

    outcome: Literal["succeeded", "failed"]
    currency: str
    attempts: int
    amount_minor: int


class SubscriptionCount(BaseModel):
    """Subscriptions to one plan in one status."""

    plan: str
    status: str
    subscriptions: int


class TenantCount(BaseModel):
    """Tenants on one plan in one status; a tenant that has chosen none has null."""

    plan: str | None
    status: str
    tenants: int


class SummaryReport(BaseModel):
    """Counts and sums; `tenants` is null unless the whole platform is asked for."""

    book: Book
    mode: Literal["test", "live"]
    invoices: list[InvoiceCount]
    payments: list[PaymentCount]
    subscriptions: list[SubscriptionCount]
    tenants: list[TenantCount] | None


Reporter = Annotated[Access, Depends(Requires("billing:read"))]
BookQuery = Annotated[
    Book | None,
    Query(description="Operators read `platform` by default, everybody else `tenant`."),
]


async def reading(request: Request, access: Reporter, book: BookQuery = None) -> Reader:
    """Whose figures are read; the platform's are for its staff alone.

    Raises:
        Forbidden: somebody else asked for the platform's book.
    """
    if book == "platform" and not access.caller.operator:
        gate: Gate = request.app.state.gate
        access = await gate.admit(request, OPERATOR)
    if book is None:
        book = "platform" if access.caller.operator else "tenant"
    tenant_id = None if access.whole_platform else access.tenant_id
    return Reader(request.app.state.database, tenant_id, access.mode, book)


Reading = Annotated[Reader, Depends(reading)]


@router.get("/api/v1/reports/revenue")
async def get_revenue(
    access: Reporter,
    reader: Reading,
    from_: Annotated[Month, Query(alias="from", description="First month.")] = None,
    to: Annotated[Month, Query(description="Last month, included.")] = None,
    currency: Annotated[Currency | None, Query()] = None,
) -> RevenueReport:
    """Revenue by month and currency; an operator who names no tenant gets the whole platform's.

    Without months: the 24 that end with the present one.
    """
    last = _first_day(to) if to else business_now(access.tenant, reader.mode).date().replace(day=1)
    first = _first_day(from_) if from_ else reports.months_back(last, MONTHS_DEFAULT - 1)
    if not 0 < reports.months_between(first, last) <= MONTHS_MAX:
        raise InvalidFields(
            f"`from` must not be after `to`, nor more than {MONTHS_MAX} months ago."
        )
    found = await reports.revenue(reader, first, last, currency)
    return RevenueReport(book=reader.book, mode=reader.mode, items=[_item(one) for one in found])


@router.get("/api/v1/reports/summary")
async def get_summary(reader: Reading) -> SummaryReport:
    """Invoices by status, payments by outcome, subscriptions and tenants by plan and status."""
    found = await reports.summary(reader)
    return SummaryReport(
        book=reader.book,
        mode=reader.mode,
        invoices=[InvoiceCount(**row) for row in found.invoices],
        payments=[PaymentCount(**row) for row in found.payments],
        subscriptions=[
            SubscriptionCount(
                plan=row["plan_key"], status=row["status"], subscriptions=row["subscriptions"]
            )
            for row in found.subscriptions
        ],
        tenants=None
        if found.tenants is None
        else [
            TenantCount(plan=row["plan_key"], status=row["status"], tenants=row["tenants"])
            for row in found.tenants
        ],
    )


def _first_day(month: str) -> date:
    return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).date()


def _item(month: RevenueMonth) -> RevenueItem:
    return RevenueItem(
        month=month.month.strftime("%Y-%m"),
        currency=month.currency,
        revenue_minor=month.revenue_minor,
        by_kind=month.by_kind,
    )
