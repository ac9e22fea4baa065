"""The revenue waterfall: of what was invoiced in a month, what is earned in which month.

Reckoned from the lines themselves, month by month as they are recognized; what was told of a month so
far stands beside what is still to come of it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date
from uuid import UUID

from libs.db.pool import Row
from services.ledger import store_recognition as store
from services.ledger.books import Reader
from services.ledger.recognition_periods import slices

LINES_MAX = 10_000


class TooManyLinesError(ValueError):
    """More lines are earned in these months than are added up at once."""


@dataclass(frozen=True, order=True)
class Cell:
    """What of the invoices of one month is earned in another, in one currency.

    Attributes:
        kind: of the lines, as their revenue is told apart.
    """

    currency: str
    invoiced: date
    month: date
    kind: str


@dataclass
class Earned:
    """What was recognized of it so far, and what is to be."""

    recognized_minor: int = 0
    to_come_minor: int = 0


async def waterfall(
    reader: Reader, since: date, until: date, currency: str | None
) -> list[tuple[Cell, Earned]]:
    """Each cell of the months `[since, until)`, in order; those without any amount are left out.

    Args:
        since, until: first days of months.

    Raises:
        TooManyLinesError: the months, the currency or the tenant must be narrowed down.
    """
    async with reader.transaction() as tx:
        lines = await store.lines_between(
            tx,
            reader.mode,
            reader.book,
            tenant_id=reader.tenant_id,
            currency=currency,
            since=since,
            until=until,
            limit=LINES_MAX + 1,
        )
        if len(lines) > LINES_MAX:
            raise TooManyLinesError
        told = await store.recognized_between(tx, reader.mode, reader.book, lines, since, until)
    # A tenth of a second of reckoning at most: others are served meanwhile.
    return await asyncio.to_thread(_added_up, lines, told, since, until)


def _added_up(
    lines: Sequence[Row], told: Mapping[tuple[UUID, date], int], since: date, until: date
) -> list[tuple[Cell, Earned]]:
    cells: dict[Cell, Earned] = defaultdict(Earned)
    for line in lines:
        invoiced = line["invoiced_at"].astimezone(UTC).date().replace(day=1)
        for each in slices(line["amount_minor"], line["first_day"], line["until_day"]):
            if since <= each.month < until:
                cell = cells[Cell(line["currency"], invoiced, each.month, line["kind"])]
                recognized = told.get((line["line_id"], each.month), 0)
                cell.recognized_minor += recognized
                cell.to_come_minor += each.amount_minor - recognized
    return [
        (cell, cells[cell])
        for cell in sorted(cells)
        if cells[cell].recognized_minor or cells[cell].to_come_minor
    ]
