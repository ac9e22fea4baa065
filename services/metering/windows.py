"""Windows by the clocks of a time zone: where each begins, in UTC.

Days and months are the zone's own: a day on which its clocks are moved has 23 or 25 hours.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal

from libs.clock import floor_to_minute

Window = Literal["minute", "hour", "day", "month"]

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def edges_of(window: Window, zone: tzinfo, start: datetime, end: datetime) -> list[datetime]:
    """Where the windows that reach into an interval begin, and where the last of them ends.

    Raises:
        OverflowError: one of them lies outside of the calendar.
    """
    return [*_starts(window, zone, start, end)]


def start_of(window: Window, at: datetime, zone: tzinfo) -> datetime:
    """Where the window that holds a moment begins, in UTC."""
    if window == "minute":
        return floor_to_minute(at)
    local = at.astimezone(zone)
    if window == "hour":
        return floor_to_minute(at) - timedelta(minutes=local.minute)
    return _midnight(local.date() if window == "day" else local.date().replace(day=1), zone)


def month_of(at: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The calendar month by the zone's clocks that holds a moment, in UTC."""
    start = start_of("month", at, zone)
    return start, _after("month", start, zone)


def ceil_to_minute(at: datetime) -> datetime:
    """The end of the minute that runs, or the moment itself where none does."""
    return floor_to_minute(at + MINUTE - timedelta.resolution)


def _starts(window: Window, zone: tzinfo, start: datetime, end: datetime) -> Iterator[datetime]:
    at = start_of(window, start, zone)
    while at < end:
        yield at
        at = _after(window, at, zone)
    yield at


def _after(window: Window, start: datetime, zone: tzinfo) -> datetime:
    """Where the window after the one that begins there begins."""
    if window == "minute":
        return start + MINUTE
    if window == "hour":
        return start_of("hour", start + HOUR, zone)
    day = start.astimezone(zone).date()
    if window == "day":
        return _midnight(day + DAY, zone)
    return _midnight((day.replace(day=1) + 31 * DAY).replace(day=1), zone)


def _midnight(day: date, zone: tzinfo) -> datetime:
    """When a day begins: the first midnight where there are two, what comes next where there is none."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
