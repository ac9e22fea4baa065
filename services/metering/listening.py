"""The meters of a tenant, made ready for thousands of events: what they read, and where it is added.

A reading rests on the meters known when it is made. So it may be made ahead of the transaction that
counts the event, by the meters of a while ago: it holds if these are still the same when its turn comes.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from libs.db.tenant import Mode
from services.metering import gained
from services.metering.aggregation import SERIES_REMEMBERED, Series, series_of, user_of
from services.metering.ears import ADDED_UP, Ear, Ears, plain_ears
from services.metering.measuring import (
    Measured,
    Measurement,
    Meter,
    UnmeasurableError,
    can_be_backfilled,
    measure_all,
)
from services.metering.usage_record import Minute, Place, Read
from services.metering.window import EPOCH

TENANTS_REMEMBERED = 1_000
ROWS_REMEMBERED = 20_000


class Line:
    """One row of aggregates but for the minute.

    Attributes:
        ear: the meter.
        start: how a part of it begins in what is told beside an id (`gained`).
        numbered: whether a number follows there.
        limited: whether some plan limits its meter.
    """

    __slots__ = ("ear", "limited", "numbered", "series", "start")

    def __init__(self, series: Series, ear: Ear) -> None:
        self.series = series
        self.ear = ear
        self.start, self.numbered = gained.start_of(series.id, ear.meter.aggregation)
        self.limited = ear.meter.limited


Value = int | Decimal | None
"""What an event adds to a row; None where it is only counted."""


class Rows:
    """The rows of aggregates that events of one minute add to, of meters that add up.

    One and the same is shared by all events that add to the same ones, as long as it is remembered.
    """

    __slots__ = ("lines", "minute")

    def __init__(self, lines: Sequence[Line], minute: Minute) -> None:
        self.lines = lines
        self.minute = minute


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What meters read from an event.

    Attributes:
        by: whose meters, as they were.
        rows: of meters that add up, where.
        values: what is added to each of these.
        single: of all other meters.
        gained: what the event adds, as it is told beside its id.
        refusal: why it must be refused, as a stable code.
    """

    by: "Listening"
    rows: Rows
    values: Sequence[Value]
    single: Sequence[Measurement]
    gained: bytes
    refusal: str | None


class Listening:
    """The meters that apply to a tenant's events in one mode."""

    def __init__(self, tenant_id: UUID, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.tenant_id = tenant_id
        self._ears = {id(meter): Ear(meter) for meter in meters}
        self._by_type: dict[str, list[Meter]] = {}
        for meter in sorted(meters, key=lambda meter: meter.counts_from):
            self._by_type.setdefault(meter.event_type, []).append(meter)
        self._plain = plain_ears(meters)

    def read(self, found: Read) -> Reading:
        """What the meters that had been defined when an event came in read from it."""
        ears = self._plain.get(found.event.type)
        if ears is not None and found.received_at >= ears.newest.counts_from:
            try:
                return self._read_plainly(found, ears)
            except UnmeasurableError:
                # Whether the event must be refused is told by all its meters together.
                pass
        measured = self.measure(found)
        lines: list[Line] = []
        values: list[Value] = []
        single, told = [], found.minute.head
        user_id = found.event.userid or ""
        for measurement in measured.measurements:
            ear = self._ears[id(measurement.meter)]
            line = _line(self, ear, found.customer, user_id, measurement.groups)
            if measurement.meter.aggregation in ADDED_UP:
                lines.append(line)
                values.append(measurement.value)
            else:
                single.append(measurement)
            told += _told(line, measurement.value)
        refusal = measured.refusal
        if found.event.backfill is not None and not can_be_backfilled(measured.measurements):
            refusal = refusal or "not_backfillable"
        return Reading(self, _rows_of(tuple(lines), found.minute), values, single, told, refusal)

    def measure(self, found: Read) -> Measured:
        """The same, measurement by measurement."""
        meters: Sequence[Meter] = self._by_type.get(found.event.type, ())
        if meters and found.received_at < meters[-1].counts_from:
            meters = _since(meters, found)
        return measure_all(meters, found.event)

    def _read_plainly(self, found: Read, ears: Ears) -> Reading:
        event, minute = found.event, found.minute
        data, said = event.data, ears.said(event.data)
        if said is None:
            # Texts of any length, or no texts at all, are not worth remembering.
            lines = _find_lines(self, ears, found.customer, event.userid or "", data)
            rows = Rows(lines, minute)
        else:
            rows = _rows(self, ears, found.customer, event.userid or "", minute, *said)
        values: list[Value] = []
        told = minute.head
        for line in rows.lines:
            told += line.start
            if line.numbered:
                value = line.ear.value(data)
                told += gained.number(value)
                values.append(value)
            else:
                values.append(None)
        return Reading(self, rows, values, (), told, None)


UNREAD = Reading(Listening(UUID(int=0), ()), Rows((), Minute(EPOCH)), (), (), b"", None)
"""Stands where no meters have read an event yet."""


def _told(line: Line, value: Decimal | None) -> bytes:
    """A part as it is told beside an id."""
    return line.start + gained.number(value) if line.numbered else line.start


def _since(meters: Sequence[Meter], found: Read) -> list[Meter]:
    """The meters that had been defined when an event came in; a rebuild must find the same.

    Of an event without a stamp of ours only the second is known: it counts to the end of it.
    """
    at = found.received_at
    if found.event.receivedat is None:
        at += timedelta(seconds=1)
    return [meter for meter in meters if meter.counts_from <= at]


@lru_cache(maxsize=ROWS_REMEMBERED)
def _rows(
    by: Listening, ears: Ears, customer: str, user_id: str, minute: Minute, *said: str | None
) -> Rows:
    """Where plain meters add an event of this minute that says this to their filters and groups."""
    return _rows_of(_lines(by, ears, customer, user_id, *said), minute)


@lru_cache(maxsize=SERIES_REMEMBERED)
def _lines(
    by: Listening, ears: Ears, customer: str, user_id: str, *said: str | None
) -> tuple[Line, ...]:
    """The same, whatever the minute."""
    data = dict(zip(ears.paths, said, strict=True))
    return _find_lines(by, ears, customer, user_id, data)


@lru_cache(maxsize=ROWS_REMEMBERED)
def _rows_of(lines: tuple[Line, ...], minute: Minute) -> Rows:
    return Rows(lines, minute)


def _find_lines(
    by: Listening, ears: Ears, customer: str, user_id: str, data: Mapping[str, Any]
) -> tuple[Line, ...]:
    return tuple(
        _line(by, ear, customer, user_id, ear.groups(data))
        for ear in ears.ears
        if not ear.leaves_out(data)
    )


@lru_cache(maxsize=SERIES_REMEMBERED)
def _line(by: Listening, ear: Ear, customer: str, user_id: str, groups: tuple[str, ...]) -> Line:
    whose = user_of(ear.meter.aggregation, user_id)
    return Line(series_of(by.tenant_id, ear.meter.id, customer, whose, groups), ear)


class Heard:
    """The meters of the tenants whose events came lately."""

    def __init__(self) -> None:
        self._found: dict[Place, Listening] = {}

    def lately(self, place: Place) -> Listening | None:
        """The meters of a tenant as they were when it was last counted."""
        return self._found.get(place)

    def now(self, tenant_id: UUID, mode: Mode, meters: tuple[Meter, ...]) -> Listening:
        """The meters of a tenant as they are; the same object as long as they are the same."""
        place = (tenant_id.int, mode)
        there = self._found.get(place)
        if there is not None and there.meters == meters:
            return there
        while len(self._found) >= TENANTS_REMEMBERED:
            del self._found[next(iter(self._found))]
        found = self._found[place] = Listening(tenant_id, meters)
        return found
