"""Records as rows of the archive's files, each with the tenant, mode and day that it belongs to.

A decoder in C reads from an ordinary record what the columns repeat, and nothing else of it. What it
refuses, and what is so long that a limit of Python's own might matter, is judged by `exact_json`. Where
both read a record they read the same.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import msgspec

from libs.contracts.envelope import MAX_EVENT_BYTES
from libs.db.tenant import Mode
from libs.messaging.dead_letter import printable
from libs.messaging.records import Record, UndecodableError, tenant_in
from services.metering import exact_json

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MODES = get_args(Mode)
PLAIN_BYTES_MAX = 1_536
"""So short a text has no whole number that is too long for Python (4,300 digits), and cannot be nested as
deeply as Python gives up at (1,000 levels), so that what is not looked at cannot be refused for either."""
ESCAPED_NUL = "\\u0000"

Place = tuple[UUID, Mode, date]


class Row(msgspec.Struct, gc=False):
    """A row, read out of its record in one go: `told` sets what an event might say of the last three.

    Attributes:
        mode: no column; it is in the file's path.
        received_at: microseconds since 1970.
        value: the record to the byte.
    """

    mode: Mode
    id: str | None = None
    source: str | None = None
    type: str | None = None
    subject: str | None = None
    userid: str | None = None
    time: str | None = None
    record_offset: int = 0
    received_at: int = 0
    value: str = ""


_PLAIN = msgspec.json.Decoder(Row)
_LINES = msgspec.json.Encoder()
_ATTRIBUTES = ("id", "source", "type", "subject", "userid", "time")


def rows_by_place(records: Iterable[Record]) -> dict[Place, list[Row]]:
    """The rows of each tenant, mode and day, in order.

    What names no tenant or no mode, or is too large, is none: it is never counted, and lies among the
    dead letters.
    """
    alike: dict[tuple[bytes | None, Mode, datetime], list[Row]] = {}
    for record in records:
        row = read_row(record)
        if row is not None:
            group = (record.key, row.mode, record.at)
            rows = alike.get(group)
            if rows is None:
                rows = alike[group] = []
            rows.append(row)
    found: dict[Place, list[Row]] = {}
    for (key, mode, at), rows in alike.items():
        try:
            tenant_id = tenant_in(key)
        except UndecodableError:
            continue
        received_at = (at - EPOCH) // timedelta(microseconds=1)
        for row in rows:
            row.received_at = received_at
        found.setdefault((tenant_id, mode, at.date()), []).extend(rows)
    for rows in found.values():
        # A producer's clock may go back, and the records of a second need not follow each other.
        rows.sort(key=_offset)
    return found


def lines(rows: list[Row]) -> bytes:
    """The rows as JSON, one on each line."""
    return _LINES.encode_lines(rows)


def read_row(record: Record) -> Row | None:
    """A record's row without the time it came in at; None for what can never be counted."""
    value = record.value
    if value is None or len(value) > MAX_EVENT_BYTES:
        return None
    try:
        text = value.decode()
        if len(value) > PLAIN_BYTES_MAX or ESCAPED_NUL in text:
            row = _read_exactly(text)
        else:
            try:
                row = _PLAIN.decode(text)
            except msgspec.DecodeError:
                row = _read_exactly(text)
    except (ValueError, RecursionError):
        return None
    if row is not None:
        row.record_offset = record.offset
        row.value = text
    return row


def _read_exactly(text: str) -> Row | None:
    """What any record says of itself.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    document: Any = exact_json.loads(text)
    if not isinstance(document, dict) or document.get("mode") not in MODES:
        return None
    row = Row(document["mode"])
    for name in _ATTRIBUTES:
        said = document.get(name)
        if isinstance(said, str):
            setattr(row, name, printable(said))
    return row


def _offset(row: Row) -> int:
    return row.record_offset
