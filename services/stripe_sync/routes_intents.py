"""`/api/v1/payment-intents`: payments that we begin, and their next steps."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.db.pool import Database, Row
from libs.money import Money, NotRepresentableError, to_stripe
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.metadata import Metadata
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    InvalidFields,
    NotFound,
    PaymentDeclined,
    Unavailable,
    problem_responses,
)
from services.stripe_sync import intents, requests, store_payments, store_requests
from services.stripe_sync.answers import (
    AmountBody,
    CustomerId,
    Email,
    Line,
    StripeId,
    TenantReference,
    WebAddress,
    asker_of,
    payer_of,
    telling_refusals,
    till_at,
    till_for,
)
from services.stripe_sync.answers_payments import (
    answer_intent,
    find_own,
    may_answer_later,
    payment_id_or_404,
    require_payee,
)
from services.stripe_sync.bodies_money import PaymentBody, payment_body
from services.stripe_sync.client import Json
from services.stripe_sync.intents import Capture, IntentWish
from services.stripe_sync.metadata import ReservedMetadataError, check_own
from services.stripe_sync.routes_money import reading

router = APIRouter(tags=["payment intents"])

Manager = Annotated[Access, Depends(Requires("billing:manage"))]
Reader = Annotated[Access, Depends(Requires("billing:read"))]
REFUSALS = (NotFound, Conflict, StripeNotConnected, PaymentDeclined, Unavailable)


class PaymentIntentRequest(BaseModel):
    """What is to be paid, by whom, and how far to go at once."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    amount: AmountBody
    customer: CustomerId | None = None
    payment_method: StripeId | None = Field(
        default=None, description="Stripe's `pm_…`, of this payer or of nobody yet."
    )
    confirm: bool = Field(default=False, description="Try to take the money at once.")
    off_session: bool = Field(default=False, description="The payer is not there to act.")
    capture: Capture = Field(
        default="automatic", description="`manual`: authorise now, `…/capture` later."
    )
    description: Line | None = None
    receipt_email: Email | None = Field(
        default=None, description="Where Stripe sends the receipt; nowhere by default."
    )
    metadata: Metadata = Field(default_factory=dict)
    return_url: WebAddress | None = Field(
        default=None, description="Where the payer comes back to from its bank's page."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "PaymentIntentRequest":
        if self.confirm and self.payment_method is None:
            raise ValueError("`confirm` needs a `payment_method`")
        if self.off_session and not self.confirm:
            raise ValueError("`off_session` goes with `confirm`")
        return self


class ConfirmRequest(BaseModel):
    """With what a payment is tried (again)."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    payment_method: StripeId | None = None
    off_session: bool = False
    receipt_email: Email | None = None
    return_url: WebAddress | None = None


class CaptureRequest(BaseModel):
    """How much of what was authorised is taken; all of it by default."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    amount: AmountBody | None = None


class CancelRequest(BaseModel):
    """Nothing need be said."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class PaymentIntentBody(PaymentBody):
    """A payment, with what the payer's browser confirms it with."""

    client_secret: str | None = Field(
        description="For the payer's browser alone; read from Stripe for each answer, never kept. "
        "Null while Stripe has not answered."
    )


@router.post(
    "/api/v1/payment-intents",
    status_code=201,
    response_model=PaymentIntentBody,
    responses=may_answer_later(PaymentIntentBody, *REFUSALS),
)
async def create_payment_intent(
    request: Request, body: PaymentIntentRequest, access: Manager
) -> JSONResponse:
    """Begin a payment: by a customer of the tenant's to the tenant, or by the tenant itself.

    Where Stripe does not answer in time the answer is 202 with the status `UNKNOWN`: what came of it
    is found out, and shown at `GET /api/v1/payment-intents/{payment}`. Do not ask anew; the same
    `Idempotency-Key` is safe.
    """
    access = await request.app.state.gate.for_tenant(request, access, body.tenant_id)
    _check(body)

    async def enter() -> Row:
        payer = await payer_of(request, access, body.customer)
        till = await till_for(request, access, of_tenant=not payer.is_tenant)
        state = request.app.state
        wish = IntentWish(
            amount=body.amount.money,
            return_url=_return_url(request, body.return_url),
            payment_method=body.payment_method,
            confirm=body.confirm,
            off_session=body.off_session,
            capture=body.capture,
            description=body.description,
            receipt_email=body.receipt_email,
            metadata=body.metadata,
        )
        with telling_refusals("enter the customer", till.account):
            return await intents.begin(
                state.database,
                state.links,
                asker_of(request, access, body),
                payer,
                till,
                wish,
            )

    return await answer_intent(request, access, body, enter, status=201)


def _check(body: PaymentIntentRequest) -> None:
    try:
        check_own(body.metadata)
        to_stripe(body.amount.money)
    except ReservedMetadataError:
        raise InvalidFields(
            "`metadata` has a name that Sluice writes itself, such as `tenant_id`. Choose another."
        ) from None
    except NotRepresentableError as error:
        raise InvalidFields(f"Stripe cannot take this amount: {error}.") from None


@router.get("/api/v1/payment-intents")
async def list_payment_intents(
    request: Request, access: Reader, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[PaymentBody]:
    """List payments that were begun here, newest first; operators without a tenant see all."""
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with reading(request.app.state.database, access) as tx:
        rows = await store_requests.list_intents(tx, access.mode, after, page.limit + 1)
    return Page[PaymentBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["payment_id"]), payment_body
    )


@router.get("/api/v1/payment-intents/{payment}", responses=problem_responses(NotFound))
async def get_payment_intent(request: Request, payment: str, access: Reader) -> PaymentBody:
    """Read one payment; the same as at `/api/v1/payments`."""
    payment_id = payment_id_or_404(payment)
    async with reading(request.app.state.database, access) as tx:
        row = await store_payments.find_payment(tx, access.mode, payment_id)
    if row is None:
        raise NotFound
    return payment_body(row)


@router.post(
    "/api/v1/payment-intents/{payment}/confirm",
    response_model=PaymentIntentBody,
    responses=may_answer_later(PaymentIntentBody, *REFUSALS),
)
async def confirm_payment_intent(
    request: Request, payment: str, body: ConfirmRequest, access: Manager
) -> JSONResponse:
    """Try to take the money, with the payment method on it or another one."""
    params: Json = intents.confirmation(
        _return_url(request, body.return_url), off_session=body.off_session
    )
    more = {"payment_method": body.payment_method, "receipt_email": body.receipt_email}
    params |= {name: value for name, value in more.items() if value is not None}
    return await _step(request, access, body, payment, "confirm", params)


@router.post(
    "/api/v1/payment-intents/{payment}/capture",
    response_model=PaymentIntentBody,
    responses=may_answer_later(PaymentIntentBody, *REFUSALS),
)
async def capture_payment_intent(
    request: Request, payment: str, body: CaptureRequest, access: Manager
) -> JSONResponse:
    """Take what was authorised, or a part of it; the rest is given free."""
    return await _step(request, access, body, payment, "capture", {}, amount=body.amount)


@router.post(
    "/api/v1/payment-intents/{payment}/cancel",
    response_model=PaymentIntentBody,
    responses=may_answer_later(PaymentIntentBody, *REFUSALS),
)
async def cancel_payment_intent(
    request: Request, payment: str, body: CancelRequest, access: Manager
) -> JSONResponse:
    """Call off a payment that has not been taken; an authorisation is given free."""
    return await _step(request, access, body, payment, "cancel", {})


async def _step(
    request: Request,
    access: Access,
    body: BaseModel,
    payment: str,
    kind: str,
    params: Json,
    *,
    amount: AmountBody | None = None,
) -> JSONResponse:
    payment_id = payment_id_or_404(payment)
    database: Database = request.app.state.database

    async def enter() -> Row:
        found = await find_own(database, access, payment_id)
        if found["stripe_payment_intent_id"] is None:
            raise Conflict(
                "Stripe has not answered yet, or the payment has no intent. Read the payment again.",
                code="payment_not_ready",
            )
        if kind == "capture" or (kind == "cancel" and found["status"] == "AUTHORIZED"):
            await require_payee(request, access, found)
        # Nothing is entered that cannot be sent now: it would be carried out whenever it can be.
        till = await till_at(request, access, found["account"])
        if amount is not None:
            _check_capture(amount.money, found)
            with telling_refusals("read the payment", till.account):
                params.update(await intents.part(till, found, amount.money))
        return await requests.enter_step(
            database, asker_of(request, access, body), kind, found, params
        )

    return await answer_intent(request, access, body, enter, status=200)


def _check_capture(amount: Money, payment: Row) -> None:
    if amount.currency != payment["currency"] or amount.amount_minor > payment["amount_minor"]:
        raise InvalidFields("`amount` must be in the payment's currency, and not above it.")
    try:
        to_stripe(amount)
    except NotRepresentableError as error:
        raise InvalidFields(f"Stripe cannot take this amount: {error}.") from None


def _return_url(request: Request, wanted: str | None) -> str:
    return wanted or f"{request.app.state.settings.origin_url}/payments"
