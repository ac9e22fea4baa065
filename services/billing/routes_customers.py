"""`/api/v1/customers` and `/api/v1/subscriptions`: who pays, and what they bought."""

from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel

from libs.contracts.billing import BilledBy, Collection, SubscriptionStatus
from libs.db.pool import Database, Row
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import NotFound
from services.billing import subscriptions

router = APIRouter(tags=["customers"])

IdPath = Annotated[str, Path(max_length=100)]
Reader = Annotated[Access, Depends(Requires("billing:read"))]
Paging = Annotated[PageRequest, Depends(page_request)]


class CustomerAnswer(BaseModel):
    """Somebody who pays: the tenant itself (billed by the platform) or one of its customers."""

    id: str
    billed_by: BilledBy
    name: str
    email: str | None
    currency: str
    stripe_customer_id: str | None
    created_at: datetime


class SubscriptionAnswer(BaseModel):
    """What a customer has bought; `period_from` and `period_to` are null on a plan without fees."""

    id: str
    customer_id: str
    plan: str
    plan_version_id: UUID
    status: SubscriptionStatus
    collection: Collection
    currency: str
    period_from: datetime | None
    period_to: datetime | None
    cancel_at_period_end: bool
    stripe_subscription_id: str | None
    version: int
    created_at: datetime


@router.get("/api/v1/customers")
async def list_customers(request: Request, access: Reader, page: Paging) -> Page[CustomerAnswer]:
    """The tenant's customers, itself among them; oldest first."""
    position = page.after(UUID)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await subscriptions.list_customers(
            tx, after=position[0] if position else None, limit=page.limit + 1
        )
    return Page[CustomerAnswer].of(
        rows, page.limit, lambda row: (row["id"],), partial(shape_customer, access)
    )


@router.get("/api/v1/customers/{customer}")
async def get_customer(request: Request, customer: IdPath, access: Reader) -> CustomerAnswer:
    """One customer."""
    customer_id = id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await subscriptions.find_customer(tx, customer_id)
    if row is None:
        raise NotFound
    return shape_customer(access, row)


@router.get("/api/v1/subscriptions")
async def list_subscriptions(
    request: Request,
    access: Reader,
    page: Paging,
    customer: Annotated[str | None, Query(max_length=100)] = None,
) -> Page[SubscriptionAnswer]:
    """The tenant's subscriptions, one per customer; oldest first."""
    position = page.after(UUID)
    customer_id = None if customer is None else id_or_404("customer", customer)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await subscriptions.list_subscriptions(
            tx,
            customer_id=customer_id,
            after=position[0] if position else None,
            limit=page.limit + 1,
        )
    return Page[SubscriptionAnswer].of(
        rows, page.limit, lambda row: (row["id"],), _shape_subscription
    )


@router.get("/api/v1/subscriptions/{subscription}")
async def get_subscription(
    request: Request, subscription: IdPath, access: Reader
) -> SubscriptionAnswer:
    """One subscription."""
    subscription_id = id_or_404("subscription", subscription)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await subscriptions.find_subscription(tx, subscription_id)
    if row is None:
        raise NotFound
    return _shape_subscription(row)


def id_or_404(kind: str, text: str) -> UUID:
    """The UUID of a prefixed id; text that is none names nothing.

    Raises:
        NotFound: it is no id of this kind.
    """
    try:
        return parse_public_id(kind, text)
    except InvalidIdError:
        raise NotFound from None


def shape_customer(access: Access, row: Row) -> CustomerAnswer:
    """A customer; the e-mail of the tenant itself is the one in its record."""
    is_tenant = row["billed_by"] == "platform"
    return CustomerAnswer(
        id=public_id("customer", row["id"]),
        billed_by=row["billed_by"],
        name=row["name"],
        email=access.tenant.snapshot.billing_email if is_tenant else row["email"],
        currency=row["currency"],
        stripe_customer_id=row["stripe_customer_id"],
        created_at=row["created_at"],
    )


def _shape_subscription(row: Row) -> SubscriptionAnswer:
    return SubscriptionAnswer(
        id=public_id("subscription", row["id"]),
        customer_id=public_id("customer", row["customer_id"]),
        plan=row["plan_key"],
        plan_version_id=row["plan_version_id"],
        status=row["status"],
        collection=row["collection"],
        currency=row["currency"],
        period_from=row["period_from"],
        period_to=row["period_to"],
        cancel_at_period_end=row["cancel_at_period_end"],
        stripe_subscription_id=row["stripe_subscription_id"],
        version=row["version"],
        created_at=row["created_at"],
    )
