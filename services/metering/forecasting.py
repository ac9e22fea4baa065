"""Where usage is heading: smoothing of windows with a season; pure, without clock or database.

Additive Holt-Winters with a damped trend (Hyndman and Athanasopoulos, Forecasting: Principles and
Practice, chapter 8), and the season before as it was (seasonal naive) as what it has to beat on
usage that both have not seen. A range follows from the errors of one step and from how an error is
carried on to later steps (the same book, section 8.7). An estimate is no quantity: here, and only
here, numbers are floats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import Literal

Method = Literal["holt_winters", "seasonal_naive", "average"]

RANGE_DEVIATIONS = 1.645
"""Nine of ten outcomes lie between low and high, where errors are normal."""

DAMPING = 0.98
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8)
TRENDS = (0.0, 0.05, 0.2)
SEASONS = (0.05, 0.2, 0.5)
FOLDS_MAX = 3
"""Seasons that are held back, one by one, to choose a method."""


@dataclass(frozen=True)
class Smoothing:
    """How much of each error goes into level, trend and season; what of a trend lasts a step."""

    level: float
    trend: float
    season: float
    damping: float = DAMPING


@dataclass(frozen=True)
class State:
    """Where Holt-Winters begins.

    Attributes:
        seasons: what each window of the first season is above or below the level.
    """

    level: float
    trend: float
    seasons: tuple[float, ...]


@dataclass(frozen=True)
class Outlook:
    """What the coming windows will bring.

    Attributes:
        expected: by window.
        deviation: of the errors one window ahead.
        carried: what of an error is in the forecast one, two, … windows later.
    """

    method: Method
    expected: tuple[float, ...]
    deviation: float
    carried: tuple[float, ...]

    def spread(self, shares: Sequence[float]) -> float:
        """The deviation of the sum of the coming windows, each taken by its share."""
        variance = 0.0
        for first, share in enumerate(shares):
            later = shares[first + 1 :]
            weight = share + sum(s * c for s, c in zip(later, self.carried, strict=False))
            variance += weight * weight
        return self.deviation * sqrt(variance)

    def spread_at_end(self) -> float:
        """The deviation of the last window."""
        steps = self.carried[: max(len(self.expected) - 1, 0)]
        return self.deviation * sqrt(1.0 + sum(each * each for each in steps))


def look_ahead(values: Sequence[float], season: int, steps: int) -> Outlook:
    """The best outlook on the windows after these.

    Args:
        values: complete windows, oldest first.
        season: windows in a season: 7 days of a week, 24 hours of a day.
        steps: windows to look ahead.
    """
    if len(values) < 2 * season:
        return average(values, steps)
    naive = seasonal_naive(values, season, steps)
    folds = min(FOLDS_MAX, len(values) // season - 2)
    if folds < 1:
        return naive
    missed = {"naive": 0.0, "smoothed": 0.0}
    for fold in range(1, folds + 1):
        known, held = values[: -fold * season], values[len(values) - fold * season :][:season]
        missed["naive"] += _missed(seasonal_naive(known, season, season), held)
        missed["smoothed"] += _missed(holt_winters(known, season, season), held)
    if missed["smoothed"] < missed["naive"]:
        return holt_winters(values, season, steps)
    return naive


def average(values: Sequence[float], steps: int) -> Outlook:
    """The mean, where there is too little to know a season."""
    mean = sum(values) / len(values) if values else 0.0
    errors = [value - mean for value in values]
    carried = 1.0 / len(values) if values else 0.0
    return Outlook("average", (mean,) * steps, _deviation(errors), (carried,) * steps)


def seasonal_naive(values: Sequence[float], season: int, steps: int) -> Outlook:
    """Each window as it was a season ago."""
    last = values[-season:]
    errors = [later - before for before, later in zip(values, values[season:], strict=False)]
    carried = tuple(1.0 if step % season == 0 else 0.0 for step in range(1, steps + 1))
    expected = tuple(last[step % season] for step in range(steps))
    return Outlook("seasonal_naive", expected, _deviation(errors), carried)


def holt_winters(
    values: Sequence[float],
    season: int,
    steps: int,
    smoothing: Smoothing | None = None,
    start: State | None = None,
) -> Outlook:
    """Level, damped trend and season, smoothed; without parameters those that fit best."""
    begin = start or first_state(values, season)
    chosen = smoothing or _best(values, begin)
    state, errors = _run(values, begin, chosen)
    kept, trends = 1.0, 0.0
    expected, carried = [], []
    for step in range(steps):
        kept *= chosen.damping
        trends += kept
        expected.append(state.level + trends * state.trend + state.seasons[step % season])
        again = chosen.season if (step + 1) % season == 0 else 0.0
        carried.append(chosen.level * (1 + chosen.trend * trends) + again)
    return Outlook("holt_winters", tuple(expected), _deviation(errors), tuple(carried))


def first_state(values: Sequence[float], season: int) -> State:
    """Level and trend of the first two seasons, and how their windows differ from their means."""
    first, second = values[:season], values[season : 2 * season]
    means = sum(first) / season, sum(second) / season
    seasons = tuple((a - means[0] + b - means[1]) / 2 for a, b in zip(first, second, strict=True))
    return State(means[0], (means[1] - means[0]) / season, seasons)


def _best(values: Sequence[float], begin: State) -> Smoothing:
    return min(
        _candidates(), key=lambda each: sum(error * error for error in _run(values, begin, each)[1])
    )


def _candidates() -> Iterator[Smoothing]:
    for level, trend, season in product(LEVELS, TRENDS, SEASONS):
        yield Smoothing(level, trend, season)


def _run(values: Sequence[float], begin: State, by: Smoothing) -> tuple[State, list[float]]:
    """The state after all values, its seasons turned so that the next window's is first."""
    level, trend, seasons = begin.level, begin.trend, list(begin.seasons)
    errors = []
    for step, value in enumerate(values):
        place = step % len(seasons)
        ahead = level + by.damping * trend
        before, level = level, by.level * (value - seasons[place]) + (1 - by.level) * ahead
        errors.append(value - ahead - seasons[place])
        trend = by.trend * (level - before) + (1 - by.trend) * by.damping * trend
        seasons[place] = by.season * (value - ahead) + (1 - by.season) * seasons[place]
    turn = len(values) % len(seasons)
    return State(level, trend, tuple(seasons[turn:] + seasons[:turn])), errors


def _missed(outlook: Outlook, held: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(outlook.expected, held, strict=True))


def _deviation(errors: Sequence[float]) -> float:
    return sqrt(sum(error * error for error in errors) / len(errors)) if errors else 0.0
