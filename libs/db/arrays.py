"""Arrays for Postgres as text: `$1::text::uuid[]`.

For sets of thousands. Given a list, asyncpg looks at each element several times, also whether it is a
list itself: that takes ten times as long as writing the array here and letting Postgres read it.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

NULL = "NULL"


def uuids(values: Iterable[UUID | None]) -> str:
    """For `uuid[]`."""
    return _array([NULL if value is None else value.hex for value in values])


def numbers(values: Iterable[int]) -> str:
    """For `bigint[]` and its kin."""
    return _array(map(str, values))


def texts(values: Iterable[str | None]) -> str:
    """For `text[]`, whatever is in them."""
    return _array([NULL if value is None else _quoted(value) for value in values])


def times(values: Iterable[datetime]) -> str:
    """For `timestamptz[]`; all of them aware."""
    return _array([value.isoformat() for value in values])


def digests(values: Iterable[bytes]) -> str:
    """For `bytea[]`."""
    return _array([rf'"\\x{value.hex()}"' for value in values])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _array(elements: Iterable[str]) -> str:
    return f"{{{','.join(elements)}}}"
