"""Times as the API takes them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

from libs.clock import is_kept_exactly


def in_utc(at: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        ValueError: in UTC it lies outside the years 1 to 9999, which nothing here can hold, or is
            their first or last moment, which the database would not give back.
    """
    try:
        moment = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("Must lie in the years 1 to 9999 in UTC.") from None
    if not is_kept_exactly(moment):
        raise ValueError("Must lie between the first and the last moment of the years 1 to 9999.")
    return moment


UtcTime = Annotated[AwareDatetime, AfterValidator(in_utc)]
"""A time with an offset, of whatever zone, as aware UTC: for every time in a query or a body."""
