"""Meters made ready for thousands of events: those that add up what lies at the top of an event's data."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from services.metering.measuring import (
    GROUP_LENGTH_MAX,
    Meter,
    UnmeasurableError,
    number_of,
    text_of,
)

ADDED_UP = frozenset({"count", "sum", "avg"})
"""Aggregations of which many events are added up at once; of others each event has its say."""

HEARD_MAX = 1_000
"""Ways to be filtered and grouped that are remembered of a type of event."""

WHOLE_MAX = 10**18
"""Whole numbers below this are within every limit of a quantity."""


class Ear:
    """A meter that listens.

    Attributes:
        plain: whether it adds up what lies at the top of an event's data, so that a few looks read it.
    """

    __slots__ = ("filters", "group_by", "meter", "plain", "value_path")

    def __init__(self, meter: Meter) -> None:
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

    def value(self, data: Mapping[str, Any]) -> int | Decimal | None:
        """What a plain meter adds: as most do, a whole number; None where it only counts.

        Raises:
            UnmeasurableError: there is nothing that it could add.
        """
        if self.value_path is None:
            return None
        raw = data.get(self.value_path)
        if type(raw) is int and 0 <= raw < WHOLE_MAX:
            return raw
        value = number_of(raw)
        if value < 0 and self.meter.aggregation == "sum":
            raise UnmeasurableError("negative_value")
        return value


class Ears:
    """The meters of one type of event, oldest first, where all of them are plain.

    Attributes:
        newest: the one that was defined last.
        paths: what their filters and groups look at.
    """

    __slots__ = ("_heard", "ears", "newest", "paths")

    def __init__(self, ears: Sequence[Ear]) -> None:
        self.ears = tuple(ears)
        self.newest = self.ears[-1].meter
        looked_at = (path for ear in self.ears for path in (*ear.meter.filters, *ear.group_by))
        self.paths = tuple(dict.fromkeys(looked_at))
        self._heard: dict[tuple[str | None, ...], Sequence[Ear]] = {}

    def said(self, data: Mapping[str, Any]) -> tuple[str | None, ...] | None:
        """What stands where filters and groups look; None where it is not all short text, or absent."""
        found = tuple(map(data.get, self.paths))
        for text in found:
            if text is not None and (type(text) is not str or len(text) > GROUP_LENGTH_MAX):
                return None
        return found

    def take(self, data: Mapping[str, Any]) -> bool:
        """Whether any of them counts an event.

        Raises:
            UnmeasurableError: one of them cannot use it.
        """
        said = self.said(data)
        taking = None if said is None else self._heard.get(said)
        if taking is None:
            taking = [ear for ear in self.ears if not ear.leaves_out(data)]
            for ear in taking:
                ear.groups(data)
            if said is not None and len(self._heard) < HEARD_MAX:
                self._heard[said] = taking
        for ear in taking:
            if ear.value_path is not None:
                ear.value(data)
        return bool(taking)


def plain_ears(meters: Sequence[Meter]) -> dict[str, Ears]:
    """By type of event its meters, where all of them are plain."""
    found: dict[str, list[Ear]] = {}
    for meter in sorted(meters, key=lambda meter: meter.counts_from):
        found.setdefault(meter.event_type, []).append(Ear(meter))
    return {
        event_type: Ears(mine)
        for event_type, mine in found.items()
        if all(ear.plain for ear in mine)
    }
