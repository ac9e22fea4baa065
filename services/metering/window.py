"""Which times of use are taken: what is too old could count twice, what is ahead is a mistake."""

from datetime import datetime, timedelta

AHEAD_MAX = timedelta(minutes=5)
DEDUP_DAYS = 35
"""Days for which the id of a counted event is kept at least."""
AGE_MAX = timedelta(days=DEDUP_DAYS - 1)
"""Less than the ids are kept: a resend after that would not be recognised, so it is refused."""


def time_problem(time: datetime, business_time: datetime) -> str | None:
    """Why an event of this time, come in at this business time, is refused: a stable code."""
    if time > business_time + AHEAD_MAX:
        return "time_in_future"
    if time < business_time - AGE_MAX:
        return "time_too_old"
    return None
