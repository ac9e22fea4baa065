"""The clock nobody can move, and how times are read and written.

`utc_now()` serves signatures, expiry, leases and deduplication. The business clock
(`libs.directory.business_now`) serves periods, invoices and dunning and may run ahead in test mode.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones


class InvalidTimeError(ValueError):
    """The text is no RFC 3339 time with an offset."""


class UnknownZoneError(ValueError):
    """No time zone has this name."""


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def from_unix(seconds: int) -> datetime:
    """A Unix time in whole seconds (Stripe's form) as aware UTC."""
    return datetime.fromtimestamp(seconds, UTC)


FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
"""The database's driver writes these two as infinities, and reads those without an offset."""


def is_kept_exactly(at: datetime) -> bool:
    """Whether the database gives an aware time back as it got it."""
    return FIRST_MOMENT < at < LAST_MOMENT


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as aware UTC.

    Raises:
        InvalidTimeError: no time, or a time without an offset, or a year that Postgres cannot hold.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidTimeError("expected an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    if parsed.tzinfo is None:
        raise InvalidTimeError("the time needs an offset, e.g. 2026-01-31T12:00:00Z")
    if parsed.tzinfo is UTC:
        return parsed
    try:
        return parsed.astimezone(UTC)
    except OverflowError:
        raise InvalidTimeError("the time is out of range") from None


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC with a `Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def zone_named(name: str) -> tzinfo:
    """A time zone by its name in the tz database (https://www.iana.org/time-zones).

    Raises:
        UnknownZoneError: it has none of that name.
    """
    if name == "UTC":
        return UTC
    if name not in _zone_names():
        raise UnknownZoneError("expected the name of a time zone such as Europe/Berlin")
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def floor_to_minute(at: datetime) -> datetime:
    """The start of the minute: billing periods hold whole minutes."""
    return at.replace(second=0, microsecond=0)


def seconds_between(start: datetime, end: datetime) -> int:
    """Whole seconds from start to end, rounded down."""
    return (end - start) // timedelta(seconds=1)
