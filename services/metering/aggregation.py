"""Adding measurements up in memory, by series and minute, before one statement stores them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

from libs.clock import floor_to_minute
from services.metering.measuring import EXACT, Measurement

SERIES_REMEMBERED = 50_000


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
            that two events of the same moment agree in any order.
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
            case "latest":
                candidate = (at, id_hash, value)
                self.latest = candidate if self.latest is None else max(self.latest, candidate)
            case "count" | "unique_count":
                return


@dataclass
class Gains:
    """What a set of events adds to the aggregates of one mode."""

    series: dict[tuple[UUID, UUID], Series] = field(default_factory=dict)
    cells: dict[tuple[UUID, UUID, datetime], Cell] = field(default_factory=dict)
    uniques: set[tuple[UUID, UUID, datetime, bytes]] = field(default_factory=set)
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
                series = series_of(tenant_id, meter_id, customer, user_id, groups)
                there = self._found[named] = (self._open(series, minute), series.id)
            cell, series_id = there
            cell.add(measurement, at, id_hash)
            if measurement.unique is not None:
                place = (tenant_id, series_id, minute)
                self.uniques.add((*place, hash_of_value(measurement.unique)))

    def _open(self, series: Series, minute: datetime) -> Cell:
        self.series[series.tenant_id, series.id] = series
        return self.cells.setdefault((series.tenant_id, series.id, minute), Cell())


def hash_of_value(text: str) -> bytes:
    """128 bits of a value that a unique count counts once."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
