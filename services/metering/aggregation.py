"""Adding measurements up in memory, by series and minute, before one statement stores them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, reduce
from uuid import UUID

from libs.clock import floor_to_minute
from libs.contracts.metering import Aggregation
from services.metering.measuring import EXACT, Measurement

SERIES_REMEMBERED = 50_000

FOREVER = datetime.max.replace(tzinfo=UTC)

Change = tuple[UUID, datetime, datetime]
"""Whose aggregates changed, and in which minutes, both included: a level holds on until the next."""


@dataclass(frozen=True)
class Series:
    """Everything that tells one row of aggregates from another but the minute.

    Attributes:
        customer: the subject; empty for the tenant itself.
        user_id: empty where the event names none.
    """

    tenant_id: UUID
    id: UUID
    meter_id: UUID
    customer: str
    user_id: str
    groups: tuple[str, ...]


@lru_cache(maxsize=SERIES_REMEMBERED)
def series_of(
    tenant_id: UUID, meter_id: UUID, customer: str, user_id: str, groups: tuple[str, ...]
) -> Series:
    """The series; its id follows from the rest, so that every worker finds the same one."""
    text = json.dumps([str(meter_id), customer, user_id, groups])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return Series(tenant_id, UUID(bytes=digest), meter_id, customer, user_id, groups)


@dataclass
class Cell:
    """What one series gained in one minute.

    Attributes:
        latest: time of the event, hash of its id, value; the greatest of (time, hash) stands, so
            that two events of the same moment agree in any order. Of a time-weighted sum it is the
            level at the end of the minute.
    """

    event_count: int = 0
    total: Decimal | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    latest: tuple[datetime, bytes, Decimal] | None = None

    def add(self, measurement: Measurement, at: datetime, id_hash: bytes) -> None:
        """Take one measurement in."""
        self.event_count += 1
        value = measurement.value
        if value is None:
            return
        match measurement.meter.aggregation:
            case "sum" | "avg":
                self.total = value if self.total is None else EXACT.add(self.total, value)
            case "min":
                self.minimum = value if self.minimum is None else min(self.minimum, value)
            case "max":
                self.maximum = value if self.maximum is None else max(self.maximum, value)
            case "latest" | "time_weighted_sum":
                candidate = (at, id_hash, value)
                self.latest = candidate if self.latest is None else max(self.latest, candidate)
            case "count" | "unique_count" | "percentile":
                return


@dataclass
class Gains:
    """What a set of events adds to the aggregates of one mode.

    Attributes:
        ranks: of percentiles, how often each value came, by series and minute.
    """

    series: dict[tuple[UUID, UUID], Series] = field(default_factory=dict)
    cells: dict[tuple[UUID, UUID, datetime], Cell] = field(default_factory=dict)
    uniques: set[tuple[UUID, UUID, datetime, bytes]] = field(default_factory=set)
    ranks: Counter[tuple[UUID, UUID, datetime, Decimal]] = field(default_factory=Counter)
    _levels: dict[UUID, datetime] = field(default_factory=dict)
    _found: dict[tuple[object, ...], tuple[Cell, UUID]] = field(default_factory=dict)

    def add(
        self,
        tenant_id: UUID,
        customer: str,
        user_id: str,
        at: datetime,
        id_hash: bytes,
        measurements: Sequence[Measurement],
    ) -> None:
        """Take in what one event adds to each of its meters."""
        minute = floor_to_minute(at)
        for measurement in measurements:
            meter_id, groups = measurement.meter.id, measurement.groups
            named = (tenant_id, meter_id, customer, user_id, groups, minute)
            there = self._found.get(named)
            if there is None:
                aggregation = measurement.meter.aggregation
                whose = user_of(aggregation, user_id)
                series = series_of(tenant_id, meter_id, customer, whose, groups)
                there = self._found[named] = (self._open(series, minute), series.id)
                if aggregation == "time_weighted_sum":
                    self._levels[tenant_id] = min(minute, self._levels.get(tenant_id, minute))
            cell, series_id = there
            cell.add(measurement, at, id_hash)
            if measurement.unique is not None:
                place = (tenant_id, series_id, minute)
                self.uniques.add((*place, hash_of_value(measurement.unique)))
            elif measurement.value is not None and measurement.meter.aggregation == "percentile":
                self.ranks[tenant_id, series_id, minute, measurement.value] += 1

    def add_up(
        self, series: Series, minute: datetime, events: int, values: Sequence[int | Decimal] = ()
    ) -> None:
        """Take in what several events add to one series, of a meter that counts or adds up.

        Args:
            events: how many they are.
            values: one of each where the meter adds them up.
        """
        cell = self._open(series, minute)
        cell.event_count += events
        if values:
            whole = sum([value for value in values if type(value) is int])
            fractions = [value for value in values if type(value) is not int]
            total = reduce(EXACT.add, fractions, Decimal(whole))
            cell.total = total if cell.total is None else EXACT.add(cell.total, total)

    def changes(self) -> Iterator[Change]:
        """What changes by all this."""
        for tenant_id, _, minute in self.cells:
            yield tenant_id, minute, minute
        for tenant_id, minute in self._levels.items():
            yield tenant_id, minute, FOREVER

    def _open(self, series: Series, minute: datetime) -> Cell:
        self.series[series.tenant_id, series.id] = series
        return self.cells.setdefault((series.tenant_id, series.id, minute), Cell())


def user_of(aggregation: Aggregation, user_id: str) -> str:
    """The user in a series: a level is its customer's and group's, whoever told it last."""
    return "" if aggregation == "time_weighted_sum" else user_id


def hash_of_value(text: str) -> bytes:
    """128 bits of a value that a unique count counts once."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
