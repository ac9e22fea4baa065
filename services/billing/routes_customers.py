"""`/api/v1/customers` and `/api/v1/subscriptions`: who pays, and what they bought."""

from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from libs.contracts.billing import BilledBy, Collection, SubscriptionStatus
from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.money import Currency
from libs.web.auth import Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.metadata import Metadata
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, NotFound, problem_responses
from services.billing import customers, subscriptions
from services.billing.catalog import Text

router = APIRouter(tags=["customers"])

IdPath = Annotated[str, Path(max_length=100)]
Reader = Annotated[Access, Depends(Requires("billing:read"))]
Paging = Annotated[PageRequest, Depends(page_request)]

PERSONAL = ("name", "email", "metadata")
"""What a customer's record says of the person; see `personal_data`."""

CustomerKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,199}$")]
EmailAddress = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f,;<>]+@[^@\s\x00-\x1f,;<>]+$"),
]


class CustomerBody(BaseModel):
    """A customer of the tenant's own, whom the tenant bills."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Text
    email: EmailAddress | None = Field(
        default=None, description="Kept here alone, and erased with the customer."
    )
    currency: Currency | None = Field(default=None, description="The tenant's own by default.")
    key: CustomerKey | None = Field(
        default=None,
        description="What you call the customer: an id of yours, unique in the mode, no personal "
        "data; it outlives an erasure.",
    )
    metadata: Metadata = Field(default_factory=dict)
    tenant_id: Annotated[str | None, Field(min_length=1, max_length=100)] = Field(
        default=None, description="Id or slug of the tenant; instead of `X-Tenant-ID`."
    )


class CustomerAnswer(BaseModel):
    """Somebody who pays: the tenant itself (billed by the platform) or one of its customers."""

    id: str
    key: str | None
    billed_by: BilledBy
    name: str
    email: str | None
    currency: str
    stripe_customer_id: str | None
    metadata: dict[str, str]
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


@router.post(
    "/api/v1/customers",
    status_code=201,
    response_model=CustomerAnswer,
    responses=problem_responses(Conflict),
)
async def create_customer(
    request: Request,
    body: CustomerBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Enter a customer whom the tenant bills, on its own Stripe account."""
    gate: Gate = request.app.state.gate
    access = await gate.for_tenant(request, access, body.tenant_id)
    wish = customers.NewCustomer(
        name=body.name,
        currency=body.currency or access.tenant.snapshot.currency,
        email=body.email,
        key=body.key,
        metadata=body.metadata,
    )
    now = business_now(access.tenant, access.mode)

    async def work(tx: Tx) -> CustomerAnswer:
        row = await customers.create(
            tx, wish, now, actor=access.caller.actor, keys=request.app.state.personal_keys
        )
        return shape_customer(access, row)

    try:
        return await answer_once(
            request, access, request.app.state.database, body, work, personal=PERSONAL
        )
    except customers.KeyTakenError:
        raise Conflict(
            "The tenant has a customer with this `key` already. Find it in `GET /api/v1/customers`, "
            "or choose another key.",
            code="customer_key_taken",
        ) from None


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
        key=row["key"],
        billed_by=row["billed_by"],
        name=row["name"],
        email=access.tenant.snapshot.billing_email if is_tenant else row["email"],
        currency=row["currency"],
        stripe_customer_id=row["stripe_customer_id"],
        metadata=row["metadata"],
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
