"""`POST /api/v1/payments`: money that arrived without Stripe is recorded."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.directory.local import business_now
from libs.money import Money
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.connections import StripeNotConnected
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve, without
from libs.web.problems import Conflict, InvalidFields, NotFound, Unavailable, problem_responses
from libs.web.times import UtcTime
from services.stripe_sync import outside, requests, store_outside
from services.stripe_sync.answers import (
    AmountBody,
    CustomerId,
    TenantReference,
    asker_of,
    payer_of,
    telling_refusals,
    till_for,
)
from services.stripe_sync.answers_payments import find_own, with_payer
from services.stripe_sync.bodies_money import PERSONAL, PaymentBody, payment_body
from services.stripe_sync.budget import user_facing
from services.stripe_sync.client import Json, StripeCallError
from services.stripe_sync.outside import OutsideWish
from services.stripe_sync.payers import Asker, Till
from services.stripe_sync.requests import DeclinedError, Errand, RefusedError, Wish

router = APIRouter(tags=["payments"])

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""The ledger holds nothing from before; an older time is a mistake, such as a time never set."""


class OutsidePaymentRequest(BaseModel):
    """Money that somebody received, from whom, and what finds it again."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tenant_id: TenantReference | None = None
    customer: CustomerId | None = Field(default=None, description="Without: the tenant itself.")
    amount: AmountBody
    reference: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")] = (
        Field(description="What finds it again where it arrived; once for a customer.")
    )
    paid_at: UtcTime | None = Field(
        default=None, description="From the year 2000 to now; now, if left out."
    )
    stripe_invoice_id: (
        Annotated[str, Field(max_length=255, pattern=r"^in_[A-Za-z0-9_]+$")] | None
    ) = Field(default=None, description="An open invoice that it pays in full.")


@router.post(
    "/api/v1/payments",
    status_code=201,
    response_model=PaymentBody,
    responses=problem_responses(NotFound, Conflict, StripeNotConnected, Unavailable),
)
async def record_payment(
    request: Request,
    body: OutsidePaymentRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Record money that arrived by transfer, cheque or cash.

    With an invoice Stripe marks that as paid; while it does not answer the payment is `UNKNOWN`. What
    a tenant paid to the platform only the platform's staff records.
    """
    access = await request.app.state.gate.for_tenant(request, access, body.tenant_id)
    database: Database = request.app.state.database
    key, digest = idempotency_key(request), request_hash(request, body)
    if key is not None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            stored = await reserve(tx, access, key, digest)
        if stored is not None:
            again, _ = await with_payer(database, access, stored)
            return JSONResponse(again, stored.status_code, {"Idempotent-Replayed": "true"})
    payer = await payer_of(request, access, body.customer)
    if payer.is_tenant and not access.caller.operator:
        sentence = "What is paid to the platform only the platform's staff records."
        await request.app.state.gate.refuse(request, access, OPERATOR, sentence)
    now = utc_now()
    wish = OutsideWish(
        customer_id=payer.customer_id,
        collected_by="platform" if payer.is_tenant else "tenant",
        amount=body.amount.money,
        reference=body.reference,
        paid_at=body.paid_at or now,
        stripe_invoice_id=body.stripe_invoice_id,
    )
    if not EARLIEST <= wish.paid_at <= now:
        raise InvalidFields("`paid_at` lies in the future, or before the year 2000.")
    asker = asker_of(request, access, body)
    try:
        shown = await _record(request, access, asker, wish, of_tenant=not payer.is_tenant)
    except outside.AlreadyRecordedError:
        shown = await _recorded(database, access, wish)
    except outside.InvoiceError as error:
        raise Conflict(
            f"The payment cannot settle the invoice: {error}.", code="invoice_not_payable"
        ) from None
    if key is not None and shown.status != "UNKNOWN":
        async with database.tenant(access.tenant_id, access.mode) as tx:
            kept = without(shown.model_dump(mode="json"), PERSONAL)
            await remember(tx, access, key, 201, kept)
    return JSONResponse(shown.model_dump(mode="json"), 201)


async def _recorded(database: Database, access: Access, wish: OutsideWish) -> PaymentBody:
    """The same said again is the payment that there is.

    Raises:
        Conflict: under this reference something else was recorded.
    """
    async with database.tenant(access.tenant_id, access.mode) as tx:
        payment_id = await store_outside.find_recorded(tx, wish.customer_id, wish.reference)
    found = await find_own(database, access, payment_id) if payment_id else None
    amount = Money(found["amount_minor"], found["currency"]) if found else None
    if found is None or amount != wish.amount:
        raise Conflict(
            "Another amount is recorded for this customer under this `reference`.",
            code="payment_recorded",
        )
    return payment_body(found)


async def _record(
    request: Request, access: Access, asker: Asker, wish: OutsideWish, *, of_tenant: bool
) -> PaymentBody:
    database: Database = request.app.state.database
    at = business_now(access.tenant, access.mode)
    if wish.stripe_invoice_id is None:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            payment_id = await outside.enter(tx, asker, wish, at)
        return payment_body(await find_own(database, access, payment_id))
    till = await till_for(request, access, of_tenant=of_tenant)
    with user_facing():
        with telling_refusals("read the invoice", till.account):
            invoice = await outside.read_invoice(till, wish.stripe_invoice_id)
        async with database.tenant(access.tenant_id, access.mode) as tx:
            row = await _enter(tx, asker, till, wish, invoice, access)
        # Refused, it stands unapplied; unanswered, a worker finds out: the money has arrived anyway.
        with suppress(DeclinedError, RefusedError, StripeCallError):
            await Errand(database, till.api, row, at).run()
    return payment_body(await find_own(database, access, row["payment_id"]))


async def _enter(
    tx: Tx, asker: Asker, till: Till, wish: OutsideWish, invoice: Json, access: Access
) -> Json:
    await outside.check_invoice(tx, till, wish, invoice)
    at = business_now(access.tenant, access.mode)
    payment_id = await outside.enter(tx, asker, wish, at)
    asked = Wish(
        kind="outside",
        payment_id=payment_id,
        account=till.account,
        path=f"/v1/invoices/{wish.stripe_invoice_id}/pay",
        params={"paid_out_of_band": True},
        told={"stripe_invoice_id": wish.stripe_invoice_id},
    )
    row, _ = await requests.enter(tx, asker, asked, payment_id)
    return dict(row)
