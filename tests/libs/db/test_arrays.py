"""Arrays that are written as text arrive as they were."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from libs.db import arrays
from libs.ids import new_id
from libs.testing.databases import TestDatabase

HOSTILE = [
    "",
    " ",
    "NULL",
    "null",
    None,
    "{}",
    "},{",
    ",",
    '"',
    "\\",
    '\\"',
    '\\\\""',
    "'; drop table account; --",
    "\x01\n\t\x7f",
    "käse 😀",
    "x" * 10_000,
]
EAST = timezone(timedelta(hours=5, minutes=45))
TIMES = [
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 29, 1, 30, 0, 123_456, tzinfo=EAST),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
IDS: list[UUID | None] = [new_id(), UUID(int=0), UUID(int=2**128 - 1), None]


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        ("text[]", arrays.texts(HOSTILE), HOSTILE),
        ("uuid[]", arrays.uuids(IDS), IDS),
        ("bigint[]", arrays.numbers([0, -1, 2**63 - 1, -(2**63)]), [0, -1, 2**63 - 1, -(2**63)]),
        ("timestamptz[]", arrays.times(TIMES), TIMES),
        ("bytea[]", arrays.digests([b"", bytes(range(256))]), [b"", bytes(range(256))]),
        ("text[]", arrays.texts(["a", "NULL", "", "{},"]), ["a", "NULL", "", "{},"]),
        ("text[]", arrays.texts(["a", 'b","c']), ["a", 'b","c']),
        ("text[]", arrays.texts(['a"', '"b']), ['a"', '"b']),
        ("text[]", arrays.texts(["a", "\\"]), ["a", "\\"]),
        ("text[]", arrays.texts([""]), [""]),
        ("text[]", arrays.texts([]), []),
        ("uuid[]", arrays.uuids(IDS[:-1]), IDS[:-1]),
        ("uuid[]", arrays.uuids(()), []),
    ],
)
async def test_an_array_arrives_as_it_was(
    database: TestDatabase, kind: str, text: str, values: list[object]
) -> None:
    async with database.admin() as admin:
        assert await admin.fetchval(f"select $1::text::{kind}", text) == values
