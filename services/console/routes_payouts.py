"""`/payouts` and `/disputes`: what reached the bank, and what payers' banks took back."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from services.console.routes import PageRoute, SignedIn, page
from services.console.shapes import Listed
from services.console.shapes_payments import Dispute, Payout

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE_SIZE = "50"
Cursor = Annotated[str | None, Query(max_length=1024)]
PayoutStatus = Literal["", "pending", "in_transit", "paid", "failed", "canceled"]


@router.get("/payouts")
async def list_payouts(
    request: Request,
    viewer: SignedIn,
    cursor: Cursor = None,
    status: Annotated[PayoutStatus, Query()] = "",
) -> Response:
    """The latest payouts, each with its amount, status, arrival and failure."""
    found = await viewer.api.read(
        Listed[Payout], "/api/v1/payouts", limit=PAGE_SIZE, cursor=cursor, status=status or None
    )
    return page(
        request,
        "payouts.html",
        viewer,
        payouts=found.items,
        cursor=found.next_cursor,
        chosen=status,
    )


@router.get("/disputes")
async def list_disputes(request: Request, viewer: SignedIn, cursor: Cursor = None) -> Response:
    """The latest disputes, and until when each can be answered."""
    found = await viewer.api.read(
        Listed[Dispute], "/api/v1/disputes", limit=PAGE_SIZE, cursor=cursor
    )
    return page(request, "disputes.html", viewer, disputes=found.items, cursor=found.next_cursor)
