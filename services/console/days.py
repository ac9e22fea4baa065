"""Days as filters name them, as the times that the API takes."""

from datetime import UTC, date, datetime, time, timedelta

from libs.clock import format_time
from services.console.origin import ApiProblem


def times_of(first: str, last: str) -> tuple[str | None, str | None]:
    """From the start of the first day to the end of the last; None where none is named.

    Raises:
        ApiProblem: a day is none.
    """
    begin, end = _day(first), _day(last)
    return (
        format_time(begin) if begin else None,
        format_time(end + timedelta(days=1)) if end else None,
    )


def _day(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.combine(date.fromisoformat(text), time.min, UTC)
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year <= 2200:
        raise ApiProblem(422, "A day must be a date, written as 2027-01-31.")
    return found
