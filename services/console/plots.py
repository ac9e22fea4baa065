"""Geometry of the plots: exact numbers in, whole coordinates out; drawing is the templates' work."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal

WIDTH = 960
HEIGHT = 240
LEFT = 84
RIGHT = 8
TOP = 12
BOTTOM = 28
LABELS_MAX = 8


@dataclass(frozen=True)
class Bar:
    """One bar: its place in the drawing, and what it stands for."""

    x: Decimal
    y: Decimal
    width: Decimal
    height: Decimal
    day: date
    value: Decimal


@dataclass(frozen=True)
class Tick:
    """A line across the plot with its value."""

    y: Decimal
    value: Decimal


@dataclass(frozen=True)
class Label:
    """A day under the plot."""

    x: Decimal
    day: date


@dataclass(frozen=True)
class BarPlot:
    """A bar per day."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    labels: tuple[Label, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    floor: int = HEIGHT - BOTTOM


def daily(
    values: Sequence[tuple[datetime, Decimal]], begin: datetime, end: datetime, zone: tzinfo
) -> tuple[tuple[date, Decimal], ...]:
    """A value for each day of a zone from `begin` to before `end`; days without one are zero.

    At most 400 days, which is more than a year's period has.
    """
    known: dict[date, Decimal] = {}
    for at, value in values:
        day = at.astimezone(zone).date()
        known[day] = known.get(day, Decimal(0)) + value
    first = begin.astimezone(zone).date()
    last = (end - timedelta(microseconds=1)).astimezone(zone).date()
    count = min(400, max(1, (last - first).days + 1))
    days = [first + timedelta(days=number) for number in range(count)]
    return tuple((day, known.get(day, Decimal(0))) for day in days)


def bar_plot(days: Sequence[tuple[date, Decimal]]) -> BarPlot:
    """Bars from zero up to a round number that no bar exceeds; values below zero draw nothing."""
    top = round_up(max((value for _, value in days), default=Decimal(0)))
    floor = Decimal(HEIGHT - BOTTOM)
    span = floor - TOP
    step = Decimal(WIDTH - LEFT - RIGHT) / max(1, len(days))
    bars = []
    for number, (day, value) in enumerate(days):
        height = (max(value, Decimal(0)) / top * span).quantize(Decimal("0.1"))
        if value > 0:
            # A day with any use at all is seen.
            height = max(height, Decimal("1.5"))
        x = (LEFT + step * number + step / 10).quantize(Decimal("0.1"))
        width = (step * 8 / 10).quantize(Decimal("0.1"))
        bars.append(Bar(x, floor - height, width, height, day, value))
    ticks = tuple(
        Tick((floor - span * part / 4).quantize(Decimal("0.1")), top * part / 4)
        for part in range(5)
    )
    every = -(-len(days) // LABELS_MAX)
    labels = tuple(
        Label((bar.x + bar.width / 2).quantize(Decimal("0.1")), bar.day) for bar in bars[::every]
    )
    return BarPlot(tuple(bars), ticks, labels)


def round_up(value: Decimal) -> Decimal:
    """The least of 1.2, 2, 4, 8, 12 times a power of ten that is not below `value`.

    Each divides by four into ticks that read well. Small whole numbers and nothing at all give 4.
    """
    if value <= 0 or (value <= 4 and value == value.to_integral_value()):
        return Decimal(4)
    power = Decimal(1).scaleb(value.adjusted())
    factors = (Decimal("1.2"), Decimal(2), Decimal(4), Decimal(8), Decimal(12))
    return next(factor * power for factor in factors if value <= factor * power)
