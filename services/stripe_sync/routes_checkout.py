"""`/api/v1/billing/checkout` and `/portal`: pages at Stripe for the tenant and its customers."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.contracts.billing import Interval
from libs.contracts.configuration import BillingConfiguration
from libs.db.pool import Database
from libs.money import NotRepresentableError
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.metadata import Metadata
from libs.web.problems import Conflict, InvalidFields, NotFound, Unavailable, problem_responses
from services.stripe_sync import checkout
from services.stripe_sync.answers import (
    AmountBody,
    CustomerId,
    Email,
    Line,
    TenantReference,
    WebAddress,
    asker_of,
    payer_of,
    telling_refusals,
    till_for,
)
from services.stripe_sync.budget import user_facing
from services.stripe_sync.metadata import ReservedMetadataError, check_own
from services.stripe_sync.payers import Payer

router = APIRouter(tags=["checkout"])

Manager = Annotated[Access, Depends(Requires("billing:manage"))]


class CheckoutRequest(BaseModel):
    """What to buy, for whom, and where the payer goes afterwards: a plan, or an amount."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    success_url: WebAddress | None = None
    cancel_url: WebAddress | None = None
    customer_email: Email | None = None
    customer: CustomerId | None = None
    plan: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$")] | None = None
    billing_interval: Interval | None = None
    amount: AmountBody | None = Field(
        default=None, description="To be paid once, for each of `quantity`; instead of a plan."
    )
    name: Line | None = Field(default=None, description="What the amount is for.")
    quantity: Annotated[int, Field(strict=True, ge=1, le=999_999)] = 1
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sells_one_thing(self) -> "CheckoutRequest":
        if self.amount is None and (self.name or self.metadata or self.quantity != 1):
            raise ValueError("`name`, `quantity` and `metadata` go with `amount`")
        if self.amount is not None and (self.plan or self.billing_interval or not self.name):
            raise ValueError("with `amount` goes `name`, and no plan and no interval")
        return self


class CheckoutBody(BaseModel):
    """The page to send the payer to."""

    url: str
    session_id: str = Field(description="Stripe's id of the session, `cs_…`.")


class PortalRequest(BaseModel):
    """Whose portal, and where it leads back to."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    customer: CustomerId | None = None
    return_url: WebAddress | None = None


class PortalBody(BaseModel):
    """The page on which a payer sees to its cards, invoices and subscription."""

    url: str


@router.post(
    "/api/v1/billing/checkout",
    status_code=201,
    response_model=CheckoutBody,
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def start_checkout(request: Request, body: CheckoutRequest, access: Manager) -> JSONResponse:
    """Open a page at Stripe on which a plan is subscribed to, or an amount is paid.

    A plan is the platform's, and the tenant itself subscribes to it. An amount is paid by the tenant
    to the platform, or by a customer of the tenant's to the tenant's own account.
    """
    state = request.app.state
    access = await state.gate.for_tenant(request, access, body.tenant_id)
    _check_metadata(body)
    database: Database = state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            stored = await reserve(tx, access, key, digest)
        if stored is not None:
            return stored
    with user_facing():
        opening = _open_plan if body.amount is None else _open_sale
        answer = (await opening(request, body, access)).model_dump(mode="json")
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            await remember(tx, access, key, 201, answer)
    return JSONResponse(answer, 201)


def _check_metadata(body: CheckoutRequest) -> None:
    try:
        check_own(body.metadata)
    except ReservedMetadataError:
        raise InvalidFields(
            "`metadata` has a name that Sluice writes itself, such as `tenant_id`. Choose another."
        ) from None


async def _open_plan(request: Request, body: CheckoutRequest, access: Access) -> CheckoutBody:
    payer = await payer_of(request, access, body.customer)
    if not payer.is_tenant:
        raise InvalidFields(
            "A plan is sold to the tenant itself. For a customer of the tenant's name an `amount`.",
            code="plan_not_sold_here",
        )
    state = request.app.state
    till = await till_for(request, access, of_tenant=False)
    success_url, cancel_url = _addresses(request, body)
    wish = checkout.Wish(
        plan=body.plan,
        interval=body.billing_interval,
        success_url=success_url,
        cancel_url=cancel_url,
        email=body.customer_email,
    )
    buyer = asker_of(request, access, body)
    database: Database = state.database
    try:
        plan = await checkout.choose_plan(
            database, access.mode, wish, state.settings.stripe_price_id
        )
        with telling_refusals("open the page", till.account):
            session = await checkout.open_session(
                database, till.api, state.links, buyer, wish, plan
            )
    except checkout.PlanUnknownError:
        raise NotFound(
            "There is no such plan. Name one of `GET /api/v1/plans` in `plan`.",
            code="plan_not_found",
        ) from None
    except checkout.PlanNotSoldHereError as error:
        raise InvalidFields(
            f"This plan cannot be bought by checkout: {error}.", code="plan_not_sold_here"
        ) from None
    except checkout.AlreadySubscribedError:
        raise Conflict(
            "The tenant has a subscription already. Change its plan with "
            "`POST /api/v1/billing/upgrade`.",
            code="already_subscribed",
        ) from None
    return CheckoutBody(url=session.url, session_id=session.session_id)


async def _open_sale(request: Request, body: CheckoutRequest, access: Access) -> CheckoutBody:
    assert body.amount is not None, "the caller has looked"
    assert body.name is not None, "the body has been checked"
    payer = await payer_of(request, access, body.customer)
    till = await till_for(request, access, of_tenant=not payer.is_tenant)
    success_url, cancel_url = _addresses(request, body)
    sale = checkout.Sale(
        amount=body.amount.money,
        name=body.name,
        quantity=body.quantity,
        success_url=success_url,
        cancel_url=cancel_url,
        metadata=body.metadata,
    )
    state = request.app.state
    try:
        with telling_refusals("open the page", till.account):
            session = await checkout.open_sale(
                state.database, state.links, asker_of(request, access, body), payer, till, sale
            )
    except NotRepresentableError as error:
        raise InvalidFields(f"Stripe cannot take this amount: {error}.") from None
    return CheckoutBody(url=session.url, session_id=session.session_id)


def _addresses(request: Request, body: CheckoutRequest) -> tuple[str, str]:
    """Where the payer goes after paying, and after leaving."""
    origin = request.app.state.settings.origin_url
    return (
        body.success_url or f"{origin}/invoices?checkout=success",
        body.cancel_url or f"{origin}/invoices?checkout=canceled",
    )


@router.post(
    "/api/v1/billing/portal",
    status_code=201,
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def open_portal(request: Request, body: PortalRequest, access: Manager) -> PortalBody:
    """Open the portal for the tenant or one of its customers: Stripe's, or the seller's own.

    Stripe's link holds for minutes, once opened. Whoever sells may have a portal of its own
    (configuration `billing.portal_url`): then that is the answer.
    """
    state = request.app.state
    access = await state.gate.for_tenant(request, access, body.tenant_id)
    payer = await payer_of(request, access, body.customer)
    own = await _portal_of_seller(request, access, payer)
    if own is not None:
        return PortalBody(url=own)
    till = await till_for(request, access, of_tenant=not payer.is_tenant)
    return_url = body.return_url or f"{state.settings.origin_url}/invoices"
    try:
        with user_facing(), telling_refusals("open the portal", till.account):
            url = await checkout.open_portal(
                state.database, access.tenant, access.mode, payer, till, return_url
            )
    except checkout.NeverBoughtError:
        raise Conflict(
            "Nothing has been bought yet. Begin with `POST /api/v1/billing/checkout`.",
            code="no_stripe_customer",
        ) from None
    return PortalBody(url=url)


async def _portal_of_seller(request: Request, access: Access, payer: Payer) -> str | None:
    """The seller's own portal: of the platform for a tenant, of the tenant for its customers."""
    seller = access.tenant
    if payer.is_tenant:
        seller = await request.app.state.directory.platform() or seller
    record = seller.config(BillingConfiguration.namespace)
    address = record.values.get("portal_url") if record else None
    return address if isinstance(address, str) else None
