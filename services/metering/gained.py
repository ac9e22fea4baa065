"""What an event added, in a few bytes beside its id, so that it can be taken back exactly.

Meters come and go between an event and its void; these bytes name the rows that were added to, and
what to. Layout: the minute since 1970 in 4 bytes, then for each row of aggregates its series in 16
bytes, how it was added to in one, the length of what follows in one, and that.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal
from uuid import UUID

from libs.contracts.metering import Aggregation
from services.metering.measuring import Measurement
from services.metering.window import EPOCH

How = Literal["counted", "added", "ranked", "kept", "leveled"]
"""Only the number of events; a total too; a value that was counted by its rank; a value that stands
among the kept ones; or such a one that holds on until the next."""

_HEAD = struct.Struct(">I")
_CODES: dict[How, bytes] = {
    "counted": b"n",
    "added": b"t",
    "ranked": b"r",
    "kept": b"v",
    "leveled": b"l",
}
_WITH_NUMBER: frozenset[How] = frozenset({"added", "ranked"})
_LENGTHS = tuple(bytes((length,)) for length in range(256))
_WORDS: dict[int, How] = {code[0]: how for how, code in _CODES.items()}
_HOW: dict[Aggregation, How] = {
    "count": "counted",
    "sum": "added",
    "avg": "added",
    "min": "kept",
    "max": "kept",
    "latest": "kept",
    "unique_count": "kept",
    "percentile": "ranked",
    "time_weighted_sum": "leveled",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What one event added to one row of aggregates.

    Attributes:
        value: what `added` added, or `ranked` counted; zero otherwise.
    """

    series_id: UUID
    minute: datetime
    how: How
    value: Decimal


def how_of(measurement: Measurement) -> How:
    """How a measurement goes into its row of aggregates."""
    return _HOW[measurement.meter.aggregation]


def head_of(minute: datetime) -> bytes:
    """How what an event of this minute added begins."""
    return _HEAD.pack(int(minute.timestamp()) // 60)


def start_of(series_id: UUID, aggregation: Aggregation) -> tuple[bytes, bool]:
    """How a part begins, and whether a number follows; without one it is whole."""
    how = _HOW[aggregation]
    start = series_id.bytes + _CODES[how]
    return (start, True) if how in _WITH_NUMBER else (start + b"\x00", False)


def number(value: int | Decimal | None) -> bytes:
    """The number behind the start of a part."""
    text = b"%d" % value if type(value) is int else str(value).encode()
    return _LENGTHS[len(text)] + text


def read(gained: bytes) -> Iterator[Part]:
    """The parts that were told."""
    (minutes,) = _HEAD.unpack_from(gained)
    minute = EPOCH + timedelta(minutes=minutes)
    position = _HEAD.size
    while position < len(gained):
        series_id = UUID(bytes=gained[position : position + 16])
        how, length = _WORDS[gained[position + 16]], gained[position + 17]
        position += 18 + length
        text = gained[position - length : position].decode()
        yield Part(series_id, minute, how, Decimal(text or 0))
