"""From the outlook on single windows to a meter's value at the end of a period, with a range."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from itertools import accumulate, pairwise
from operator import itemgetter

from libs.contracts.metering import Aggregation
from services.metering.forecasting import RANGE_DEVIATIONS, Method, Outlook
from services.metering.measuring import EXACT
from services.metering.windows import Window

ADDED_UP = frozenset({"count", "sum", "unique_count", "time_weighted_sum"})
"""Aggregations whose windows add up; of unique values each window has those that are new."""

IN_ONES = frozenset({"count", "unique_count"})

SHORT_PERIOD = timedelta(days=3)
"""Periods up to this are looked at by the hour and the day's course, longer ones by the week's."""

_DIGITS = Context(prec=9, rounding=ROUND_HALF_EVEN)
"""An estimate claims no more digits than these."""


@dataclass(frozen=True)
class Grain:
    """The windows that a period is looked at in.

    Attributes:
        length: of a window on most days.
        season: windows in a season.
        history: how far the past is looked at.
    """

    window: Window
    length: timedelta
    season: int
    history: timedelta


BY_HOUR = Grain("hour", timedelta(hours=1), 24, timedelta(days=14))
BY_DAY = Grain("day", timedelta(days=1), 7, timedelta(days=70))


@dataclass(frozen=True)
class Projection:
    """A meter's value at the end of a period.

    Attributes:
        low, high: nine of ten outcomes lie between them.
        by_window: the value expected at the end of each coming window.
    """

    method: Method
    expected: Decimal
    low: Decimal
    high: Decimal
    by_window: tuple[Decimal, ...]

    def with_planned(
        self, coming: Sequence[tuple[datetime, Decimal]], edges: Sequence[datetime]
    ) -> "Projection":
        """The same with what is planned on top: nobody has to guess that.

        Args:
            coming: when what comes within the period, the first to come first.
            edges: where the coming windows begin, and where the last of them ends.
        """
        sums = [*accumulate((each[1] for each in coming), EXACT.add, initial=Decimal(0))]
        by_window = tuple(
            EXACT.add(value, sums[bisect_left(coming, end, key=itemgetter(0))])
            for value, end in zip(self.by_window, edges[1:], strict=True)
        )
        more = sums[-1]
        return replace(
            self,
            expected=EXACT.add(self.expected, more),
            low=EXACT.add(self.low, more),
            high=EXACT.add(self.high, more),
            by_window=by_window,
        )


def grain_of(start: datetime, end: datetime) -> Grain:
    """The windows for a period."""
    return BY_HOUR if end - start <= SHORT_PERIOD else BY_DAY


def shares_of(edges: Sequence[datetime], now: datetime, end: datetime) -> list[float]:
    """What of each coming window lies in the period; of the running one, what is left of it.

    Args:
        edges: where the windows begin that reach into the time from `now` to `end`, and where the
            last of them ends.
    """
    return [
        (min(after, end) - max(begin, now)) / (after - begin) for begin, after in pairwise(edges)
    ]


def project(
    aggregation: Aggregation,
    used: Decimal,
    elapsed: float,
    outlook: Outlook,
    shares: Sequence[float],
) -> Projection:
    """The value at the period's end.

    Args:
        used: the value of the period so far.
        elapsed: windows of the period that are over.
        shares: of the coming windows.
    """
    if aggregation in ADDED_UP:
        return _added_up(aggregation, used, outlook, shares)
    margin = RANGE_DEVIATIONS * outlook.spread_at_end()
    so_far = float(used)

    def path(shift: float) -> list[Decimal]:
        values = [value + shift for value in outlook.expected]
        found = _path(aggregation, so_far, elapsed, values, shares)
        return [_DIGITS.create_decimal_from_float(value) for value in found]

    return Projection(
        outlook.method, path(0.0)[-1], path(-margin)[-1], path(margin)[-1], tuple(path(0.0)[1:])
    )


def _path(
    aggregation: Aggregation,
    so_far: float,
    elapsed: float,
    values: Sequence[float],
    shares: Sequence[float],
) -> list[float]:
    """The meter's value now and at the end of each coming window, of a meter that adds nothing up."""
    if aggregation == "max":
        return list(accumulate(values, max, initial=so_far))
    if aggregation == "min":
        return list(accumulate(values, min, initial=so_far))
    if aggregation == "avg":
        weights = accumulate(shares, initial=elapsed)
        parts = (share * value for share, value in zip(shares, values, strict=True))
        sums = accumulate(parts, initial=so_far * elapsed)
        return [
            total / weight if weight else so_far
            for total, weight in zip(sums, weights, strict=True)
        ]
    return [so_far, *values]


def _added_up(
    aggregation: Aggregation, used: Decimal, outlook: Outlook, shares: Sequence[float]
) -> Projection:
    """What is used stays used: no outlook takes anything of it back."""
    gains = [share * max(value, 0.0) for share, value in zip(shares, outlook.expected, strict=True)]
    margin = RANGE_DEVIATIONS * outlook.spread(shares)
    more = sum(gains)

    def beyond(gain: float, rounding: str) -> Decimal:
        found = _DIGITS.create_decimal_from_float(max(gain, 0.0))
        whole = aggregation in IN_ONES
        return EXACT.add(used, found.to_integral_value(rounding) if whole else found)

    return Projection(
        outlook.method,
        beyond(more, ROUND_HALF_EVEN),
        beyond(more - margin, ROUND_FLOOR),
        beyond(more + margin, ROUND_CEILING),
        tuple(beyond(gain, ROUND_HALF_EVEN) for gain in accumulate(gains)),
    )


def hit_at(
    aggregation: Aggregation,
    limit: Decimal,
    used: Decimal,
    projection: Projection,
    edges: Sequence[datetime],
    now: datetime,
) -> datetime | None:
    """In which window a limit is reached, as its start; None: not in this period.

    A limit that is reached already is hit now. An average, a percentile or a least value that comes to
    the limit once is not used up by it, so it has no such time.
    """
    if aggregation in ("avg", "min", "percentile"):
        return None
    if used >= limit:
        return now
    for step, value in enumerate(projection.by_window):
        if value >= limit:
            return edges[step]
    return None
