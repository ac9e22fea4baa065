"""HTTP of stripe_sync: checkout, portal and payments."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.contracts.billing import Interval
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, InvalidFields, NotFound, Unavailable, problem_responses
from services.stripe_sync import checkout, store_objects
from services.stripe_sync.client import StripeApi, StripeCallError, StripeRefusedError

router = APIRouter()

WebAddress = Annotated[
    str,
    Field(max_length=2000, pattern=r"^https?://[^\s\x00-\x1f\\<>\"@]+$", examples=["https://…"]),
]
Email = Annotated[
    str, Field(max_length=320, pattern=r"^[^@\s\x00-\x1f,;<>]+@[^@\s\x00-\x1f,;<>]+$")
]


class CheckoutRequest(BaseModel):
    """What to buy, for whom, and where the payer goes afterwards."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None
    success_url: WebAddress | None = None
    cancel_url: WebAddress | None = None
    customer_email: Email | None = None
    plan: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$")] | None = None
    billing_interval: Interval | None = None


class CheckoutBody(BaseModel):
    """The page to send the payer to."""

    url: str
    session_id: str = Field(description="Stripe's id of the session, `cs_…`.")


class PortalRequest(BaseModel):
    """Whose portal, and where it leads back to."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None
    return_url: WebAddress | None = None


class PortalBody(BaseModel):
    """Stripe's page on which the tenant sees to its cards, invoices and subscription."""

    url: str


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


@router.post(
    "/api/v1/billing/checkout",
    status_code=201,
    response_model=CheckoutBody,
    responses=problem_responses(NotFound, Conflict, Unavailable),
)
async def start_checkout(
    request: Request,
    body: CheckoutRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Open a page at Stripe on which the tenant subscribes to a plan."""
    state = request.app.state
    access = await state.gate.for_tenant(request, access, body.tenant_id)
    database: Database = state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            stored = await reserve(tx, access, key, digest)
        if stored is not None:
            return stored
    answer = (await _open_session(request, body, access, key)).model_dump(mode="json")
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            await remember(tx, access, key, 201, answer)
    return JSONResponse(answer, 201)


@router.post(
    "/api/v1/billing/portal",
    status_code=201,
    responses=problem_responses(Conflict, Unavailable),
)
async def open_portal(
    request: Request,
    body: PortalRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> PortalBody:
    """Open Stripe's customer portal for the tenant; the link holds for minutes, once opened."""
    state = request.app.state
    access = await state.gate.for_tenant(request, access, body.tenant_id)
    api = _api(request, access)
    try:
        url = await checkout.open_portal(
            state.database,
            api,
            access.tenant,
            access.mode,
            body.return_url or f"{state.settings.origin_url}/invoices",
        )
    except checkout.NeverBoughtError:
        raise Conflict(
            "The tenant has not bought anything yet. Begin with `POST /api/v1/billing/checkout`.",
            code="no_stripe_customer",
        ) from None
    except StripeRefusedError as error:
        raise Conflict(
            "Stripe refused to open the portal. Check its settings in Stripe's dashboard.",
            code="stripe_refused",
            extra={"stripe_code": error.code},
        ) from None
    except StripeCallError:
        raise Unavailable("Stripe does not answer right now. Try again shortly.") from None
    return PortalBody(url=url)


def _api(request: Request, access: Access) -> StripeApi:
    """The platform's identity in the caller's mode."""
    api: StripeApi | None = request.app.state.identities.platform(access.mode)
    if api is None:
        raise Conflict(
            f"No Stripe key for mode {access.mode} is configured. Set STRIPE_SECRET_KEY.",
            code="stripe_not_configured",
        )
    return api


async def _open_session(
    request: Request, body: CheckoutRequest, access: Access, key: str | None
) -> CheckoutBody:
    state = request.app.state
    api = _api(request, access)
    origin = state.settings.origin_url
    wish = checkout.Wish(
        plan=body.plan,
        interval=body.billing_interval,
        success_url=body.success_url or f"{origin}/invoices?checkout=success",
        cancel_url=body.cancel_url or f"{origin}/invoices?checkout=canceled",
        email=body.customer_email,
    )
    buyer = checkout.Buyer(access.tenant, access.mode, access.caller.actor, key)
    database: Database = state.database
    try:
        plan = await checkout.choose_plan(
            database, access.mode, wish, state.settings.stripe_price_id
        )
        session = await checkout.open_session(database, api, state.links, buyer, wish, plan)
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
    except StripeRefusedError as error:
        raise Conflict(
            "Stripe refused to open the page. Check the plan's price and the addresses.",
            code="stripe_refused",
            extra={"stripe_code": error.code},
        ) from None
    except StripeCallError:
        raise Unavailable(
            "Stripe does not answer right now. Try again with the same `Idempotency-Key`."
        ) from None
    return CheckoutBody(url=session.url, session_id=session.session_id)


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
