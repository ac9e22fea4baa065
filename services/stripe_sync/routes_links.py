"""`/api/v1/payment-links`: addresses where people pay."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.db.pool import Database, Row
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.money import NotRepresentableError
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.metadata import Metadata
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, InvalidFields, NotFound, Unavailable, problem_responses
from services.stripe_sync import payment_links, store_links
from services.stripe_sync.answers import (
    AmountBody,
    Line,
    StripeId,
    TenantReference,
    asker_of,
    payer_of,
    telling_refusals,
    till_at,
    till_for,
)
from services.stripe_sync.bodies_money import Amount
from services.stripe_sync.budget import user_facing
from services.stripe_sync.metadata import ReservedMetadataError, check_own
from services.stripe_sync.payment_links import LinkWish
from services.stripe_sync.routes_money import reading

router = APIRouter(tags=["payment links"])

Manager = Annotated[Access, Depends(Requires("billing:manage"))]
Reader = Annotated[Access, Depends(Requires("billing:read"))]


class PaymentLinkRequest(BaseModel):
    """What a link sells: an amount with a name, or a price of the account; and to whom."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    amount: AmountBody | None = Field(default=None, description="For each of `quantity`.")
    name: Line | None = Field(default=None, description="What the amount is for.")
    price: StripeId | None = Field(
        default=None, description="Stripe's `price_…` in the account that is paid into."
    )
    quantity: Annotated[int, Field(strict=True, ge=1, le=999_999)] = 1
    customer: Annotated[
        str | None,
        Field(
            max_length=100,
            pattern=r"^[^\x00]*$",
            description="For whom it is meant; anybody by default, paying the tenant.",
        ),
    ] = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sells_one_thing(self) -> "PaymentLinkRequest":
        if (self.amount is None) == (self.price is None):
            raise ValueError("name either an `amount` or a `price`")
        if (self.amount is None) != (self.name is None):
            raise ValueError("`name` goes with `amount`")
        return self


class DeactivationRequest(BaseModel):
    """Nothing need be said."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class PaymentLinkBody(BaseModel):
    """An address where people pay."""

    id: str
    tenant_id: UUID
    mode: str
    url: str
    active: bool
    amount: Amount = Field(description="For each of `quantity`.")
    quantity: int
    name: str | None
    application_fee: Amount = Field(description="The platform's share of each payment.")
    customer_id: str | None
    collected_by: str = Field(description="`platform` or `tenant`: whose Stripe account it is.")
    stripe_account: str
    stripe_payment_link_id: str
    created_at: datetime
    deactivated_at: datetime | None


@router.post(
    "/api/v1/payment-links",
    status_code=201,
    response_model=PaymentLinkBody,
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def create_payment_link(
    request: Request, body: PaymentLinkRequest, access: Manager
) -> JSONResponse:
    """Make an address at Stripe where people pay into the tenant's account, as often as they like."""
    access = await request.app.state.gate.for_tenant(request, access, body.tenant_id)
    _check_metadata(body)
    database: Database = request.app.state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            stored = await reserve(tx, access, key, digest)
        if stored is not None:
            return stored
    with user_facing():
        shown = _body(await _create(request, access, body)).model_dump(mode="json")
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            await remember(tx, access, key, 201, shown)
    return JSONResponse(shown, 201)


def _check_metadata(body: PaymentLinkRequest) -> None:
    try:
        check_own(body.metadata)
    except ReservedMetadataError:
        raise InvalidFields(
            "`metadata` has a name that Sluice writes itself, such as `tenant_id`. Choose another."
        ) from None


async def _create(request: Request, access: Access, body: PaymentLinkRequest) -> Row:
    payer = await payer_of(request, access, body.customer) if body.customer else None
    of_tenant = payer is None or not payer.is_tenant
    till = await till_for(request, access, of_tenant=of_tenant)
    wish = LinkWish(
        quantity=body.quantity,
        amount=body.amount.money if body.amount else None,
        name=body.name,
        price=body.price,
        metadata=body.metadata,
    )
    database: Database = request.app.state.database
    try:
        with telling_refusals("make the link", till.account):
            return await payment_links.create(
                database, asker_of(request, access, body), payer, till, wish
            )
    except payment_links.PriceNotSoldHereError as error:
        raise InvalidFields(f"A link cannot sell this price: {error}.") from None
    except NotRepresentableError as error:
        raise InvalidFields(f"Stripe cannot take this amount: {error}.") from None


@router.get("/api/v1/payment-links")
async def list_payment_links(
    request: Request, access: Reader, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[PaymentLinkBody]:
    """List payment links, newest first; an operator who names no tenant sees all of them."""
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with reading(request.app.state.database, access) as tx:
        rows = await store_links.list_links(tx, access.mode, after, page.limit + 1)
    return Page[PaymentLinkBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["link_id"]), _body
    )


@router.get("/api/v1/payment-links/{link}", responses=problem_responses(NotFound))
async def get_payment_link(request: Request, link: str, access: Reader) -> PaymentLinkBody:
    """Read one payment link."""
    link_id = _link_id(link)
    async with reading(request.app.state.database, access) as tx:
        row = await store_links.find(tx, access.mode, link_id)
    if row is None:
        raise NotFound
    return _body(row)


@router.post(
    "/api/v1/payment-links/{link}/deactivate",
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def deactivate_payment_link(
    request: Request, link: str, body: DeactivationRequest, access: Manager
) -> PaymentLinkBody:
    """Switch a payment link off for good; pages that are open already can still be paid."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await store_links.find(tx, access.mode, _link_id(link))
    if row is None:
        raise NotFound
    till = await till_at(request, access, row["account"])
    asker = asker_of(request, access, body)
    with user_facing(), telling_refusals("switch the link off", till.account):
        return _body(await payment_links.deactivate(database, asker, till, row))


def _link_id(text: str) -> UUID:
    try:
        return parse_public_id("payment_link", text)
    except InvalidIdError:
        raise NotFound from None


def _body(row: Row) -> PaymentLinkBody:
    currency, customer_id = row["currency"], row["customer_id"]
    return PaymentLinkBody(
        id=public_id("payment_link", row["link_id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        url=row["url"],
        active=row["active"],
        amount=Amount(amount_minor=row["amount_minor"], currency=currency),
        quantity=row["quantity"],
        name=row["name"],
        application_fee=Amount(amount_minor=row["application_fee_minor"], currency=currency),
        customer_id=public_id("customer", customer_id) if customer_id else None,
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_payment_link_id=row["stripe_payment_link_id"],
        created_at=row["created_at"],
        deactivated_at=row["deactivated_at"],
    )
