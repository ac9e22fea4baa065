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
from services.metering.measuring import (
    GROUP_LENGTH_MAX,
    Measured,
    Measurement,
    Meter,
    UnmeasurableError,
    can_be_backfilled,
    measure_all,
    number_of,
    text_of,
)
from services.metering.usage_record import Read

TENANTS_REMEMBERED = 1_000

ADDED_UP = frozenset({"count", "sum", "avg"})
"""Aggregations of which many events are added up at once; of others each event has its say."""

WHOLE_MAX = 10**18
"""Whole numbers below this are within every limit of a quantity."""


class Line:
    """One row of aggregates but for the minute.

    Attributes:
        start: how a part of it begins in what is told beside an id (`gained`).
        numbered: whether a number follows there.
        limited: whether some plan limits its meter.
    """

    __slots__ = ("limited", "numbered", "series", "start")

    def __init__(self, series: Series, meter: Meter) -> None:
        self.series = series
        self.start, self.numbered = gained.start_of(series.id, meter.aggregation)
        self.limited = meter.limited


Part = tuple[Line, Decimal | None]
"""What is added up where; None where the event is only counted."""


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What meters read from an event.

    Attributes:
        by: whose meters, as they were.
        parts: of meters that add up.
        single: of all others.
        gained: what the event adds, as it is told beside its id.
        refusal: why it must be refused, as a stable code.
    """

    by: "Listening"
    parts: Sequence[Part]
    single: Sequence[Measurement]
    gained: bytes
    refusal: str | None


class Ear:
    """A meter that listens to a tenant's events.

    Attributes:
        plain: whether it adds up what lies at the top of an event's data, so that a few looks read it.
    """

    __slots__ = ("filters", "group_by", "meter", "plain", "tenant_id", "value_path")

    def __init__(self, tenant_id: UUID, meter: Meter) -> None:
        self.tenant_id = tenant_id
        self.meter = meter
        self.filters = tuple(meter.filters.items())
        self.group_by = meter.group_by
        self.value_path = None if meter.aggregation == "count" else meter.value_path
        paths = [*meter.filters, *meter.group_by, *filter(None, [self.value_path])]
        self.plain = meter.aggregation in ADDED_UP and not any("." in path for path in paths)

    def leaves_out(self, data: Mapping[str, Any]) -> bool:
        """Whether the filters of a plain meter leave an event out."""
        return any(text_of(data.get(path)) not in allowed for path, allowed in self.filters)

    def groups(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """The groups that a plain meter puts an event into.

        Raises:
            UnmeasurableError: one of them is odd.
        """
        found = []
        for path in self.group_by:
            text = data.get(path)
            if type(text) is not str:
                text = text_of(text)
            if text is None or len(text) > GROUP_LENGTH_MAX or "\x00" in text:
                raise UnmeasurableError("invalid_group")
            found.append(text)
        return tuple(found)

    def value(self, data: Mapping[str, Any]) -> Decimal | None:
        """What a plain meter adds; None where it only counts.

        Raises:
            UnmeasurableError: there is nothing that it could add.
        """
        if self.value_path is None:
            return None
        raw = data.get(self.value_path)
        if type(raw) is int and 0 <= raw < WHOLE_MAX:
            return Decimal(raw)
        value = number_of(raw)
        if value < 0 and self.meter.aggregation == "sum":
            raise UnmeasurableError("negative_value")
        return value


class Listening:
    """The meters that apply to a tenant's events in one mode."""

    def __init__(self, tenant_id: UUID, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self._ears = {id(meter): Ear(tenant_id, meter) for meter in meters}
        self._by_type: dict[str, list[Meter]] = {}
        for meter in sorted(meters, key=lambda meter: meter.counts_from):
            self._by_type.setdefault(meter.event_type, []).append(meter)
        ears = {
            event_type: [self._ears[id(meter)] for meter in listening]
            for event_type, listening in self._by_type.items()
        }
        self._plain = {
            event_type: mine for event_type, mine in ears.items() if all(ear.plain for ear in mine)
        }

    def read(self, found: Read) -> Reading:
        """What the meters that had been defined when an event came in read from it."""
        ears = self._plain.get(found.event.type)
        if ears is not None and found.received_at >= ears[-1].meter.counts_from:
            try:
                return self._read_plainly(found, ears)
            except UnmeasurableError:
                # Whether the event must be refused is told by all its meters together.
                pass
        measured = self.measure(found)
        parts: list[Part] = []
        single, told = [], found.minute.head
        for measurement in measured.measurements:
            ear = self._ears[id(measurement.meter)]
            line = _line(ear, found.customer, found.event.userid or "", measurement.groups)
            if measurement.meter.aggregation in ADDED_UP:
                parts.append((line, measurement.value))
            else:
                single.append(measurement)
            told += _told(line, measurement.value)
        refusal = measured.refusal
        if found.event.backfill is not None and not can_be_backfilled(measured.measurements):
            refusal = refusal or "not_backfillable"
        return Reading(self, parts, single, told, refusal)

    def measure(self, found: Read) -> Measured:
        """The same, measurement by measurement."""
        meters: Sequence[Meter] = self._by_type.get(found.event.type, ())
        if meters and found.received_at < meters[-1].counts_from:
            meters = _since(meters, found)
        return measure_all(meters, found.event)

    def _read_plainly(self, found: Read, ears: Sequence[Ear]) -> Reading:
        data, customer, user_id = found.event.data, found.customer, found.event.userid or ""
        parts, told = [], found.minute.head
        for ear in ears:
            if ear.filters and ear.leaves_out(data):
                continue
            value = ear.value(data)
            line = _line(ear, customer, user_id, ear.groups(data))
            parts.append((line, value))
            told += _told(line, value)
        return Reading(self, parts, (), told, None)


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


@lru_cache(maxsize=SERIES_REMEMBERED)
def _line(ear: Ear, customer: str, user_id: str, groups: tuple[str, ...]) -> Line:
    whose = user_of(ear.meter.aggregation, user_id)
    series = series_of(ear.tenant_id, ear.meter.id, customer, whose, groups)
    return Line(series, ear.meter)


Place = tuple[int, Mode]
"""Whose events, by the tenant's id as a number (far quicker to look for than a UUID), in which mode."""


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
