"""`POST /api/v1/refunds`, and receipts: what follows a payment."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.db.pool import Database, Row
from libs.directory.local import business_now
from libs.money import NotRepresentableError, format_money
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.problems import (
    Conflict,
    InvalidFields,
    NotFound,
    Unavailable,
    problem_responses,
)
from services.stripe_sync import receipts, refunds, store_money
from services.stripe_sync.answers import (
    AmountBody,
    Email,
    TenantReference,
    asker_of,
    telling_refusals,
    till_at,
)
from services.stripe_sync.answers_payments import (
    UNANSWERED,
    find_own,
    may_answer_later,
    payment_id_or_404,
    require_payee,
    run,
)
from services.stripe_sync.bodies_money import PaymentBody, RefundBody, payment_body, refund_body
from services.stripe_sync.budget import user_facing
from services.stripe_sync.refunds import Reason, RefundWish
from services.stripe_sync.requests import Errand

router = APIRouter(tags=["refunds"])

Manager = Annotated[Access, Depends(Requires("billing:manage"))]


class RefundRequest(BaseModel):
    """What is given back of a payment; all that is left of it by default."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    payment: Annotated[str, Field(max_length=100, description="`pay_…`.")]
    amount: AmountBody | None = Field(default=None, description="In the payment's currency.")
    reason: Reason | None = None


class ReceiptRequest(BaseModel):
    """Where the receipt goes."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    email: Email | None = Field(default=None, description="Where it went last by default.")


@router.post(
    "/api/v1/refunds",
    status_code=201,
    response_model=RefundBody,
    responses=may_answer_later(RefundBody, NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def create_refund(request: Request, body: RefundRequest, access: Manager) -> JSONResponse:
    """Give back all that is left of a payment, or a part of it.

    The platform's share of a payment through Connect goes back in proportion. Where Stripe does not
    answer in time the answer is 202 with the status `unknown`, and the money counts as given back
    until it is known that it was not.
    """
    access = await request.app.state.gate.for_tenant(request, access, body.tenant_id)
    database: Database = request.app.state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            stored = await reserve(tx, access, key, digest)
        if stored is not None:
            return stored
    with user_facing():
        row = await _enter(request, access, body)
        till = await till_at(request, access, row["account"])
        at = business_now(access.tenant, access.mode)
        answer = await run(Errand(database, till.api, row, at))
    answered = answer is not UNANSWERED
    async with database.tenant(access.tenant_id, access.mode) as tx:
        refund = await store_money.find(tx, "refund", access.mode, row["request_id"])
        shown = refund_body(refund).model_dump(mode="json")
        if answered and key is not None:
            await remember(tx, access, key, 201, shown)
    return JSONResponse(shown, 201 if answered else 202)


async def _enter(request: Request, access: Access, body: RefundRequest) -> Row:
    database: Database = request.app.state.database
    payment = await find_own(database, access, payment_id_or_404(body.payment))
    await require_payee(request, access, payment)
    if body.amount is not None and body.amount.currency != payment["currency"]:
        raise InvalidFields("`amount` must be in the payment's currency.")
    till = await till_at(request, access, payment["account"])
    wish = RefundWish(
        payment_id=payment["payment_id"],
        amount_minor=body.amount.amount_minor if body.amount else None,
        reason=body.reason,
    )
    try:
        with telling_refusals("read the payment", till.account):
            returns_fee = await refunds.has_application_fee(till, payment)
        return await refunds.ask(
            database, asker_of(request, access, body), till, wish, returns_fee=returns_fee
        )
    except refunds.NotRefundableError as error:
        raise Conflict(
            f"Nothing of this payment can be given back: {error}.", code="payment_not_refundable"
        ) from None
    except refunds.TooMuchError as error:
        raise Conflict(
            f"Of this payment {format_money(error.left)} is left. Ask for that much at most.",
            code="refund_exceeds_payment",
            extra={
                "left": {"amount_minor": error.left.amount_minor, "currency": error.left.currency}
            },
        ) from None
    except NotRepresentableError as error:
        raise InvalidFields(f"Stripe cannot give back this amount: {error}.") from None


@router.post(
    "/api/v1/payments/{payment}/receipt",
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def send_receipt(
    request: Request, payment: str, body: ReceiptRequest, access: Manager
) -> PaymentBody:
    """Have Stripe send the receipt of a payment, again or to another address.

    In test mode Stripe sends no mail; the receipt stands at `receipt_url`.
    """
    database: Database = request.app.state.database
    found = await find_own(database, access, payment_id_or_404(payment))
    if found["stripe_charge_id"] is None or found["paid_at"] is None:
        raise Conflict(
            "There is no receipt: the payment has not been made.", code="payment_not_paid"
        )
    email = body.email or found["receipt_email"]
    if email is None:
        raise InvalidFields("The receipt has not been sent to anybody yet. Name an `email`.")
    till = await till_at(request, access, found["account"])
    asker = asker_of(request, access, body)
    with user_facing(), telling_refusals("send the receipt", till.account):
        await receipts.send(database, asker, till, found, email)
    return payment_body(await find_own(database, access, found["payment_id"]))
