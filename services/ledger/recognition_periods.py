"""Which part of an invoice's line belongs to which month: straight-line by day, exact to the cent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from libs.contracts.billing import InvoiceFinalized, InvoiceLine
from libs.money import apportion
from services.ledger.entries import ContradictoryFactError

IN_ADVANCE = ("flat", "proration")
"""Kinds of lines that are invoiced for a time to come; usage is invoiced when it is over."""

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Slice:
    """What of a line belongs to one month.

    Attributes:
        month: its first day.
        until: the first day that is not part of the slice any more; from then on it is earned.
    """

    month: date
    until: date
    amount_minor: int

    @property
    def due_at(self) -> datetime:
        """When it is earned: its last day is over."""
        return datetime.combine(self.until, time.min, UTC)

    @property
    def last_instant(self) -> datetime:
        """The last moment of the slice, which lies in its month."""
        return self.due_at - _INSTANT


def is_deferred(line: InvoiceLine, final: InvoiceFinalized) -> bool:
    """Whether a line is for a time that reaches beyond the date of its invoice.

    An invoice that was told without a date was booked as earned at once, and stays so.
    """
    return (
        final.finalized_at is not None
        and line.kind in IN_ADVANCE
        and line.period_from is not None
        and line.period_to is not None
        and line.period_to > final.finalized_at
    )


def days_of(line: InvoiceLine) -> tuple[date, date]:
    """The days (UTC) that a deferred line is for, the second one not included; one at least.

    A period from noon to noon has as many days as nights: the day it ends on is the next period's.
    """
    assert line.period_from is not None, "a deferred line has a period"
    assert line.period_to is not None, "a deferred line has a period"
    first = line.period_from.astimezone(UTC).date()
    return first, max(line.period_to.astimezone(UTC).date(), first + timedelta(days=1))


def slices(amount_minor: int, first: date, until: date) -> list[Slice]:
    """An amount over the days `[first, until)`, month by month; the parts add up to it."""
    months = list(_months(first, until))
    parts = apportion(amount_minor, [(end - start).days for start, end in months])
    return [
        Slice(start.replace(day=1), end, part)
        for (start, end), part in zip(months, parts, strict=True)
    ]


def _months(first: date, until: date) -> Iterator[tuple[date, date]]:
    """The days of each month, from the first to before the second."""
    start = first
    while start < until:
        end = min((start.replace(day=1) + timedelta(days=32)).replace(day=1), until)
        yield start, end
        start = end


@dataclass(frozen=True)
class Credited:
    """What credit notes take back of an invoice: of each line, and of its tax."""

    lines: Mapping[UUID, int]
    tax_minor: int


def credited(final: InvoiceFinalized, credited_minor: int) -> Credited:
    """How an amount that is taken back falls upon the lines and the tax, by what each adds.

    Stripe tells the sum of an invoice's credit notes. A line that lowers the invoice bears nothing.

    Raises:
        ContradictoryFactError: it is more than what the invoice charges, or below zero.
    """
    charged = [line for line in final.lines if line.kind != "credit" and line.amount_minor > 0]
    weights = [*(line.amount_minor for line in charged), max(0, final.tax_minor)]
    if not 0 <= credited_minor <= sum(weights):
        raise ContradictoryFactError(
            f"invoice {final.invoice_id}: {credited_minor} credited of {sum(weights)}"
        )
    if credited_minor == 0:
        return Credited({}, 0)
    *parts, tax_minor = apportion(credited_minor, weights)
    return Credited(
        {line.line_id: part for line, part in zip(charged, parts, strict=True)}, tax_minor
    )
