"""HTTP of money: reading payments, refunds, disputes and payouts."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from libs.db.pool import Database, Tx
from libs.ids import InvalidIdError, parse_public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import InvalidFields, NotFound, problem_responses
from services.stripe_sync import store_money, store_payments
from services.stripe_sync.bodies_money import (
    DisputeBody,
    DisputeStatus,
    PaymentBody,
    PaymentStatus,
    PayoutBody,
    PayoutStatus,
    RefundBody,
    RefundStatus,
    dispute_body,
    payment_body,
    payout_body,
    refund_body,
)

router = APIRouter()

Reader = Annotated[Access, Depends(Requires("billing:read"))]
Paging = Annotated[PageRequest, Depends(page_request)]
PaymentFilter = Annotated[
    str | None, Query(max_length=100, alias="payment", description="Only those of this payment.")
]
CustomerFilter = Annotated[
    str | None, Query(max_length=100, alias="customer", description="Only those of this customer.")
]


@router.get("/api/v1/payments")
async def list_payments(
    request: Request,
    access: Reader,
    page: Paging,
    status: PaymentStatus | None = None,
    customer: CustomerFilter = None,
) -> Page[PaymentBody]:
    """List payments, newest first; an operator who names no tenant sees all of them."""
    customer_id = _wanted("customer", customer)
    async with reading(request.app.state.database, access) as tx:
        rows = await store_payments.list_payments(
            tx,
            access.mode,
            _after(page),
            page.limit + 1,
            status=status,
            customer_id=customer_id,
        )
    return Page[PaymentBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["payment_id"]), payment_body
    )


@router.get("/api/v1/payments/{payment}", responses=problem_responses(NotFound))
async def get_payment(request: Request, payment: str, access: Reader) -> PaymentBody:
    """Read one payment."""
    payment_id = _named("payment", payment)
    async with reading(request.app.state.database, access) as tx:
        row = await store_payments.find_payment(tx, access.mode, payment_id)
    if row is None:
        raise NotFound
    return payment_body(row)


@router.get("/api/v1/refunds")
async def list_refunds(
    request: Request,
    access: Reader,
    page: Paging,
    status: RefundStatus | None = None,
    payment: PaymentFilter = None,
) -> Page[RefundBody]:
    """List refunds, newest first; an operator who names no tenant sees all of them."""
    payment_id = _wanted("payment", payment)
    async with reading(request.app.state.database, access) as tx:
        rows = await store_money.list_refunds(
            tx, access.mode, _after(page), page.limit + 1, status=status, payment_id=payment_id
        )
    return Page[RefundBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["refund_id"]), refund_body
    )


@router.get("/api/v1/refunds/{refund}", responses=problem_responses(NotFound))
async def get_refund(request: Request, refund: str, access: Reader) -> RefundBody:
    """Read one refund."""
    refund_id = _named("refund", refund)
    async with reading(request.app.state.database, access) as tx:
        row = await store_money.find_refund(tx, access.mode, refund_id)
    if row is None:
        raise NotFound
    return refund_body(row)


@router.get("/api/v1/disputes")
async def list_disputes(
    request: Request,
    access: Reader,
    page: Paging,
    status: DisputeStatus | None = None,
    payment: PaymentFilter = None,
) -> Page[DisputeBody]:
    """List disputes, newest first; an operator who names no tenant sees all of them."""
    payment_id = _wanted("payment", payment)
    async with reading(request.app.state.database, access) as tx:
        rows = await store_money.list_disputes(
            tx, access.mode, _after(page), page.limit + 1, status=status, payment_id=payment_id
        )
    return Page[DisputeBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["dispute_id"]), dispute_body
    )


@router.get("/api/v1/disputes/{dispute}", responses=problem_responses(NotFound))
async def get_dispute(request: Request, dispute: str, access: Reader) -> DisputeBody:
    """Read one dispute."""
    dispute_id = _named("dispute", dispute)
    async with reading(request.app.state.database, access) as tx:
        row = await store_money.find_dispute(tx, access.mode, dispute_id)
    if row is None:
        raise NotFound
    return dispute_body(row)


@router.get("/api/v1/payouts")
async def list_payouts(
    request: Request, access: Reader, page: Paging, status: PayoutStatus | None = None
) -> Page[PayoutBody]:
    """List payouts, newest first; an operator who names no tenant sees all of them.

    Those of the platform's own account are the platform's.
    """
    async with reading(request.app.state.database, access) as tx:
        rows = await store_money.list_payouts(
            tx, access.mode, _after(page), page.limit + 1, status=status
        )
    return Page[PayoutBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["payout_id"]), payout_body
    )


@router.get("/api/v1/payouts/{payout}", responses=problem_responses(NotFound))
async def get_payout(request: Request, payout: str, access: Reader) -> PayoutBody:
    """Read one payout."""
    payout_id = _named("payout", payout)
    async with reading(request.app.state.database, access) as tx:
        row = await store_money.find_payout(tx, access.mode, payout_id)
    if row is None:
        raise NotFound
    return payout_body(row)


def reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _after(page: PageRequest) -> tuple[datetime, UUID] | None:
    position = page.after(datetime, UUID)
    return (position[0], position[1]) if position else None


def _named(kind: str, text: str) -> UUID:
    try:
        return parse_public_id(kind, text)
    except InvalidIdError:
        raise NotFound from None


def _wanted(kind: str, text: str | None) -> UUID | None:
    """The id that a filter names."""
    if text is None:
        return None
    try:
        return parse_public_id(kind, text)
    except InvalidIdError as error:
        raise InvalidFields(f"`{kind}`: {error}.", code="invalid_id") from None
