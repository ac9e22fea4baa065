"""`/api/v1/ledger/periods`: close a month of a book, and open the last one again."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.directory.local import business_now
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, problem_responses
from services.ledger import periods, store_periods
from services.ledger.periods import Period
from services.ledger.routes import PERIOD, Reading

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

PeriodPath = Annotated[
    str, Path(max_length=7, pattern=PERIOD, description="A month in UTC, e.g. `2026-03`")
]
Staff = Annotated[Access, Depends(Requires(OPERATOR))]


class ClosingRequest(BaseModel):
    """Of which book; the tenant is named by `X-Tenant-ID`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    book: Book = "platform"


class ReopeningRequest(ClosingRequest):
    """Of which book, and why."""

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")] = Field(
        description="For the audit log."
    )


class PeriodStep(BaseModel):
    """A closing or reopening of the month."""

    step: int
    kind: Literal["close", "reopen"]
    taken_at: datetime
    taken_by: str
    reason: str | None = Field(description="Why it was opened again.")
    chain_seq: int | None = Field(
        description="The last entry of the book's chain when it was closed."
    )


class PeriodBody(BaseModel):
    """A month of a book that was closed, at least once."""

    tenant_id: UUID
    book: Book
    period: str
    state: Literal["closed", "open"]
    starts_at: datetime
    ends_at: datetime = Field(description="The first moment after it.")
    steps: list[PeriodStep]


@router.post(
    "/api/v1/ledger/periods/{period}/close",
    response_model=PeriodBody,
    responses=problem_responses(Conflict),
)
async def close_period(
    request: Request, period: PeriodPath, body: ClosingRequest, access: Staff
) -> JSONResponse:
    """Close a month of a tenant's book: its figures stay as they are.

    What comes late is booked in the open month, with a link to this one. Closing twice is fine.
    """
    month = Period.named(period)

    async def work(tx: Tx) -> PeriodBody:
        try:
            await periods.close(
                tx,
                body.book,
                month,
                actor=access.caller.actor,
                business_now=business_now(access.tenant, access.mode),
                now=utc_now(),
            )
        except periods.NotOverError:
            raise Conflict(
                "This month is not over yet in the tenant's time. Close it when it is.",
                code="period_not_over",
            ) from None
        except periods.NextToCloseError as following:
            raise Conflict(
                f"Months are closed one after the other: close {following} first.",
                code="earlier_period_open",
                extra={"period": str(following)},
            ) from None
        except periods.ClosedByLaterError as last:
            raise _closed_by_later(last) from None
        return await _shown(tx, body.book, period)

    return await answer_once(request, access, request.app.state.database, body, work, status=200)


@router.post(
    "/api/v1/ledger/periods/{period}/reopen",
    response_model=PeriodBody,
    responses=problem_responses(Conflict),
)
async def reopen_period(
    request: Request, period: PeriodPath, body: ReopeningRequest, access: Staff
) -> JSONResponse:
    """Open the last closed month of a tenant's book again; late entries stay where they are."""
    month = Period.named(period)

    async def work(tx: Tx) -> PeriodBody:
        try:
            await periods.reopen(
                tx,
                body.book,
                month,
                reason=body.reason,
                actor=access.caller.actor,
                now=utc_now(),
            )
        except periods.NotClosedError:
            raise Conflict("This month is open.", code="period_open") from None
        except periods.ClosedByLaterError as last:
            raise _closed_by_later(last) from None
        return await _shown(tx, body.book, period)

    return await answer_once(request, access, request.app.state.database, body, work, status=200)


@router.get("/api/v1/ledger/periods")
async def list_periods(
    reader: Reading, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[PeriodBody]:
    """The months of a book that were ever closed, the latest first."""
    position = page.after(str, UUID)
    async with reader.transaction() as tx:
        rows = await store_periods.list_periods(
            tx,
            reader.mode,
            reader.book,
            tenant_id=reader.tenant_id,
            before=position,
            limit=page.limit + 1,
        )
    return Page[PeriodBody].of(
        rows, page.limit, lambda row: (row["period"], row["tenant_id"]), _body
    )


def _closed_by_later(last: periods.ClosedByLaterError) -> Conflict:
    return Conflict(
        f"The book is closed up to the end of {last}, this month with it. Open {last} first.",
        code="later_period_closed",
        extra={"period": str(last)},
    )


async def _shown(tx: Tx, book: Book, period: str) -> PeriodBody:
    row = await store_periods.find_period(tx, book, period)
    assert row is not None, "it has a step"
    return _body(row)


def _body(row: Row) -> PeriodBody:
    month, steps = Period.named(row["period"]), row["steps"]
    return PeriodBody(
        tenant_id=row["tenant_id"],
        book=row["book"],
        period=month.name,
        state="closed" if steps[-1]["kind"] == "close" else "open",
        starts_at=month.starts_at,
        ends_at=month.ends_at,
        steps=[
            PeriodStep(
                step=step["step"],
                kind=step["kind"],
                taken_at=step["taken_at"],
                taken_by=step["taken_by"],
                reason=step["reason"] or None,
                chain_seq=step["chain_seq"] if step["kind"] == "close" else None,
            )
            for step in steps
        ],
    )
