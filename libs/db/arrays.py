"""Arrays for Postgres as text: `$1::text::uuid[]`.

For sets of thousands. Given a list, asyncpg looks at each element several times, also whether it is a
list itself: that takes ten times as long as writing the array here and letting Postgres read it.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

NULL = "NULL"
BETWEEN_TEXTS = '","'


def uuids(values: Iterable[UUID | None]) -> str:
    """For `uuid[]`."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if len(known) < len(listed):
        return _array([NULL if value is None else value.hex for value in listed])
    return f"{{{b''.join([value.int.to_bytes(16) for value in known]).hex(',', 16)}}}"


def numbers(values: Iterable[int]) -> str:
    """For `bigint[]` and its kin."""
    return _array(map(str, values))


def texts(values: Iterable[str | None]) -> str:
    """For `text[]`, whatever is in them."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if known and len(known) == len(listed):
        joined = BETWEEN_TEXTS.join(known)
        # Nothing to escape: the quotes that are there are those between the texts.
        if joined.count('"') == 2 * (len(known) - 1) and "\\" not in joined:
            return f'{{"{joined}"}}'
    return _array([NULL if value is None else _quoted(value) for value in listed])


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
