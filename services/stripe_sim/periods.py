"""Calendar arithmetic of billing periods, in UTC and Unix seconds."""

import calendar
from datetime import UTC, datetime, timedelta

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

_FIXED = {"day": timedelta(days=1), "week": timedelta(weeks=1)}
_MONTHS = {"month": 1, "year": 12}


def add_intervals(anchor: int, interval: str, number: int) -> int:
    """Return the time `number` intervals after the anchor.

    Months keep the anchor's day where the month has it and end on its last day otherwise, so that
    an anchor on the 31st gives 28 February and then 31 March again.
    """
    start = datetime.fromtimestamp(anchor, UTC)
    if interval in _FIXED:
        return int((start + _FIXED[interval] * number).timestamp())
    months = start.year * 12 + start.month - 1 + _MONTHS[interval] * number
    year, month = divmod(months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())


def next_boundary(anchor: int, interval: str, count: int, after: int) -> int:
    """Return the first period boundary later than `after`, counting from the anchor."""
    unit_days_max = {"day": 1, "week": 7, "month": 31, "year": 366}[interval]
    number = max((after - anchor) // (unit_days_max * count * DAY_SECONDS), 0)
    while (boundary := add_intervals(anchor, interval, number * count)) <= after:
        number += 1
    return boundary
