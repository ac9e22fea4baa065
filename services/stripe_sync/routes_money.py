"""HTTP of money: reading payments, refunds, disputes and payouts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import InvalidFields, NotFound, problem_responses
from services.stripe_sync import store_money
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
from services.stripe_sync.store_money import Listed

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
    about = _wanted("customer", customer)
    return Page[PaymentBody].of(
        *await _rows(request, access, page, "payment", status, about), payment_body
    )


@router.get("/api/v1/payments/{payment}", responses=problem_responses(NotFound))
async def get_payment(request: Request, payment: str, access: Reader) -> PaymentBody:
    """Read one payment."""
    return payment_body(await _row(request, access, "payment", payment))


@router.get("/api/v1/refunds")
async def list_refunds(
    request: Request,
    access: Reader,
    page: Paging,
    status: RefundStatus | None = None,
    payment: PaymentFilter = None,
) -> Page[RefundBody]:
    """List refunds, newest first; an operator who names no tenant sees all of them."""
    about = _wanted("payment", payment)
    return Page[RefundBody].of(
        *await _rows(request, access, page, "refund", status, about), refund_body
    )


@router.get("/api/v1/refunds/{refund}", responses=problem_responses(NotFound))
async def get_refund(request: Request, refund: str, access: Reader) -> RefundBody:
    """Read one refund."""
    return refund_body(await _row(request, access, "refund", refund))


@router.get("/api/v1/disputes")
async def list_disputes(
    request: Request,
    access: Reader,
    page: Paging,
    status: DisputeStatus | None = None,
    payment: PaymentFilter = None,
) -> Page[DisputeBody]:
    """List disputes, newest first; an operator who names no tenant sees all of them."""
    about = _wanted("payment", payment)
    return Page[DisputeBody].of(
        *await _rows(request, access, page, "dispute", status, about), dispute_body
    )


@router.get("/api/v1/disputes/{dispute}", responses=problem_responses(NotFound))
async def get_dispute(request: Request, dispute: str, access: Reader) -> DisputeBody:
    """Read one dispute."""
    return dispute_body(await _row(request, access, "dispute", dispute))


@router.get("/api/v1/payouts")
async def list_payouts(
    request: Request, access: Reader, page: Paging, status: PayoutStatus | None = None
) -> Page[PayoutBody]:
    """List payouts, newest first; an operator who names no tenant sees all of them.

    Those of the platform's own account are the platform's.
    """
    return Page[PayoutBody].of(*await _rows(request, access, page, "payout", status), payout_body)


@router.get("/api/v1/payouts/{payout}", responses=problem_responses(NotFound))
async def get_payout(request: Request, payout: str, access: Reader) -> PayoutBody:
    """Read one payout."""
    return payout_body(await _row(request, access, "payout", payout))


async def _rows(
    request: Request,
    access: Access,
    page: PageRequest,
    listed: Listed,
    status: str | None,
    about: UUID | None = None,
) -> tuple[Sequence[Row], int, Callable[[Row], tuple[datetime, UUID]]]:
    """What a page is made of: its rows and one more, their number, and their place in the list."""
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with reading(request.app.state.database, access) as tx:
        rows = await store_money.page_of(
            tx, listed, access.mode, after, page.limit + 1, status=status, about=about
        )
    return rows, page.limit, lambda row: (row["created_at"], row[f"{listed}_id"])


async def _row(request: Request, access: Access, listed: Listed, text: str) -> Row:
    """The one that a path names.

    Raises:
        NotFound: there is none in view.
    """
    try:
        row_id = parse_public_id(listed, text)
    except InvalidIdError:
        raise NotFound from None
    async with reading(request.app.state.database, access) as tx:
        row = await store_money.find(tx, listed, access.mode, row_id)
    if row is None:
        raise NotFound
    return row


def reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _wanted(kind: str, text: str | None) -> UUID | None:
    """The id that a filter names."""
    if text is None:
        return None
    try:
        return parse_public_id(kind, text)
    except InvalidIdError as error:
        raise InvalidFields(f"`{kind}`: {error}.", code="invalid_id") from None
