"""Times of requests: only those that come back from the database as they went in."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from libs.web.times import UtcTime

TAKEN: TypeAdapter[datetime] = TypeAdapter(UtcTime)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T14:00:00+14:00",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-23:59",
        "2026-01-01T00:00:00",
    ],
)
def test_a_time_that_would_not_come_back_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TAKEN.validate_python(text)


def test_every_other_is_the_same_moment_in_utc() -> None:
    first, last = "0001-01-01T00:00:00.000001Z", "9999-12-31T23:59:59.999998Z"
    assert TAKEN.validate_python(first) == datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert TAKEN.validate_python(last) == datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=UTC)
    eastern = TAKEN.validate_python("2026-01-01T00:30:00+01:00")
    assert eastern == datetime(2025, 12, 31, 23, 30, tzinfo=UTC)
    assert eastern.tzinfo is UTC
