"""`/api/v1/ledger/revenue-waterfall`: what was invoiced in advance, and when it is earned."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from libs.contracts.ledger import Book
from libs.web.problems import Forbidden, InvalidFields, problem_responses
from services.ledger.recognition_waterfall import (
    LINES_MAX,
    Cell,
    Earned,
    TooManyLinesError,
    waterfall,
)
from services.ledger.routes import CurrencyQuery, Reading

router = APIRouter(tags=["ledger"], responses=problem_responses(Forbidden))

MONTHS_MAX = 60

Month = Annotated[str, Query(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-03"])]


class WaterfallCell(BaseModel):
    """What of the invoices of one month is earned in another."""

    currency: str
    invoiced_month: str
    month: str
    kind: str = Field(description="`flat` or `proration`: whose revenue it is.")
    recognized_minor: int = Field(description="Booked as revenue so far.")
    to_come_minor: int = Field(description="Deferred: to be booked when the month is over.")


class Waterfall(BaseModel):
    """Deferred revenue by the month of its invoice and the month it is earned in."""

    book: Book
    items: list[WaterfallCell]
    next_cursor: None = None


@router.get("/api/v1/ledger/revenue-waterfall")
async def get_revenue_waterfall(
    reader: Reading, first: Month, last: Month, currency: CurrencyQuery = None
) -> Waterfall:
    """Revenue that was invoiced in advance: earned so far and to come, of the months named."""
    since, until = _first_day(first), _after(_first_day(last))
    months = (until.year - since.year) * 12 + until.month - since.month
    if not 1 <= months <= MONTHS_MAX:
        raise InvalidFields(f"`last` is from `first` on, and at most {MONTHS_MAX} months in all.")
    try:
        found = await waterfall(reader, since, until, currency)
    except TooManyLinesError:
        raise InvalidFields(
            f"More than {LINES_MAX} lines are earned in these months. Ask for fewer months, name "
            "a currency, or a tenant by `X-Tenant-ID`."
        ) from None
    return Waterfall(book=reader.book, items=[_cell(*each) for each in found])


def _first_day(month: str) -> date:
    return date.fromisoformat(f"{month}-01")


def _after(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _cell(cell: Cell, earned: Earned) -> WaterfallCell:
    return WaterfallCell(
        currency=cell.currency,
        invoiced_month=f"{cell.invoiced:%Y-%m}",
        month=f"{cell.month:%Y-%m}",
        kind=cell.kind,
        recognized_minor=earned.recognized_minor,
        to_come_minor=earned.to_come_minor,
    )
