"""When planned usage happens: once, or each day, week or month by the clocks of a time zone."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

Every = Literal["day", "week", "month"]

OCCURRENCES_MAX = 366


class TooManyOccurrencesError(ValueError):
    """More than OCCURRENCES_MAX."""


@dataclass(frozen=True)
class Recurrence:
    """How often, up to a number or up to a time.

    Attributes:
        count: how many occurrences; None where `until` ends them.
        until: the last moment at which one may be; None where `count` ends them.
    """

    every: Every
    count: int | None = None
    until: datetime | None = None


def times_of(first: datetime, recurrence: Recurrence, zone: tzinfo) -> list[datetime]:
    """Each occurrence in UTC: at the hour of the first by the zone's clocks.

    Where clocks are moved past that hour it is the hour after; in a month that is too short the day is
    its last.

    Raises:
        TooManyOccurrencesError: it has no end within 366.
    """
    times: list[datetime] = []
    while recurrence.count is None or len(times) < recurrence.count:
        at = _nth(first, recurrence.every, len(times), zone)
        if recurrence.until is not None and at > recurrence.until:
            break
        if len(times) == OCCURRENCES_MAX:
            raise TooManyOccurrencesError
        times.append(at)
    return times


def _nth(first: datetime, every: Every, number: int, zone: tzinfo) -> datetime:
    if number == 0:
        return first
    local = first.astimezone(zone).replace(fold=0)
    if every == "month":
        months = local.month - 1 + number
        year, month = local.year + months // 12, months % 12 + 1
        local = local.replace(
            year=year, month=month, day=min(local.day, monthrange(year, month)[1])
        )
    else:
        # Of two times of one zone the difference is by its clocks, however they were moved between.
        local += timedelta(days=number if every == "day" else 7 * number)
    return local.astimezone(UTC)
