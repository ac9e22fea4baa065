"""Which times of use are taken: what is too old could count twice, what is ahead is a mistake."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from libs.messaging.records import UndecodableError

AHEAD_MAX = timedelta(minutes=5)
DEDUP_DAYS = 35
"""Days for which the id of a counted event is kept at least."""
AGE_MAX = timedelta(days=DEDUP_DAYS - 1)
"""Less than the ids are kept: a resend after that would not be recognised, so it is refused."""

BACKFILL_AGE_MAX = timedelta(days=1_096)
"""How old usage may be that is told by a backfill."""

STAMP_AGE_MAX = timedelta(hours=1)
STAMP_AHEAD_MAX = timedelta(minutes=5)
"""How far a record's own `receivedat` may lie before and after the broker's time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No use was before it."""

STAMPS_REMEMBERED = 10_000


class Stamp(NamedTuple):
    """When an event came in, and which times of use are taken then."""

    received_at: datetime
    business_time: datetime
    earliest: datetime
    latest: datetime


@lru_cache(maxsize=STAMPS_REMEMBERED)
def stamp_of(receivedat: datetime | None, clockoffset: int, broker_time: datetime) -> Stamp:
    """The stamp of an event, remembered: the events of a request share it.

    Raises:
        UndecodableError: it is far from the broker's time, or no time at all.
    """
    try:
        received_at = (receivedat or broker_time).astimezone(UTC)
        if not broker_time - STAMP_AGE_MAX <= received_at <= broker_time + STAMP_AHEAD_MAX:
            detail = "`receivedat` is far from the broker's time"
            raise UndecodableError("received_at_mismatch", detail)
        business_time = received_at + timedelta(seconds=clockoffset)
        earliest = max(business_time - AGE_MAX, EPOCH)
        return Stamp(received_at, business_time, earliest, business_time + AHEAD_MAX)
    except OverflowError:
        raise UndecodableError("invalid_time", "a stamp is out of range") from None


def backfill_problem(time: datetime, business_time: datetime) -> str | None:
    """Why a backfill, at this business time, does not take an event of this time: a stable code."""
    if time < business_time - BACKFILL_AGE_MAX:
        return "time_too_old"
    if time >= business_time - AGE_MAX:
        return "not_old_enough"
    return None


def ids_kept_since(today: date) -> date:
    """Ids of events that came in before this day are forgotten: those are refused by their age anyway.

    A day more than promised: the day an event came in is a date, not a moment.
    """
    return today - timedelta(days=DEDUP_DAYS + 1)


def time_problem(time: datetime, business_time: datetime) -> str | None:
    """Why an event of this time, come in at this business time, is refused: a stable code."""
    if time > business_time + AHEAD_MAX:
        return "time_in_future"
    if time < business_time - AGE_MAX:
        return "time_too_old"
    return None
