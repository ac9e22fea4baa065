"""What a meter reads from an event: pure, exact, and the same at ingest and at consumption."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from libs.contracts.metering import Aggregation, TimeUnit
from libs.contracts.tenants import PLATFORM_TENANT_ID
from services.metering.exact_json import DIGITS_MAX

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)

INTEGER_DIGITS_MAX = 20
FRACTION_DIGITS_MAX = 15
GROUP_LENGTH_MAX = 128
QUOTIENT_DIGITS = 12

RANK_DIGITS = 3
"""Significant digits by which a percentile tells values apart: so it is off by half a percent at most."""

SECONDS_IN: Mapping[TimeUnit, int] = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}

EXACT = Context(prec=400, traps=[Inexact])
"""Adding any number of quantities within the limits stays exact here."""

_DECIMAL_TEXT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,40})?")
_LARGEST = 10**INTEGER_DIGITS_MAX
_DIVISION = Context(prec=100, rounding=ROUND_HALF_EVEN)
_RANKS = Context(prec=RANK_DIGITS, rounding=ROUND_HALF_EVEN)
_NEVER_NEGATIVE = frozenset({"sum", "time_weighted_sum"})


@dataclass(frozen=True)
class Meter:
    """What is measured.

    Attributes:
        tenant_id: the owner; meters of `platform` apply to every tenant's events.
        filters: by path, the values as text of which one must be there.
        limited: whether some plan of the owner limits it.
        counts_from: it counts what came in at or after this moment, so that a rebuild decides
            the same.
        percentile: between 0 and 100, of a `percentile`.
        time_unit: what the levels of a `time_weighted_sum` are measured over.
    """

    tenant_id: UUID
    id: UUID
    key: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None
    group_by: tuple[str, ...]
    filters: Mapping[str, frozenset[str]]
    limited: bool = False
    counts_from: datetime = ALWAYS
    percentile: Decimal | None = None
    time_unit: TimeUnit | None = None


class Measurement(NamedTuple):
    """What one event adds to one meter.

    Attributes:
        value: the number read, of a percentile its rank; None for count and unique_count.
        unique: the text counted once by unique_count.
    """

    meter: Meter
    groups: tuple[str, ...]
    value: Decimal | None = None
    unique: str | None = None


class Measurable(Protocol):
    """What of an event is measured."""

    @property
    def type(self) -> str:
        """What meters listen to."""

    @property
    def data(self) -> dict[str, Any]:
        """Where meters find values and groups."""


class UnmeasurableError(ValueError):
    """The event is one of the meter's, but holds no value it can use; `code` is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Measured(NamedTuple):
    """An event against all meters that listen to its type.

    Attributes:
        refusal: why the event must be refused as a whole, as a stable code.
        left_out: meters of the tenant's own that could not use it.
    """

    measurements: tuple[Measurement, ...]
    refusal: str | None
    left_out: int


NOT_MEASURED = Measured((), None, 0)


def measure_all(meters: Sequence[Meter], event: Measurable) -> Measured:
    """Measure an event by every meter given.

    A meter of the platform that cannot use an event refuses it: it would be unbilled use. A
    tenant's own meter refuses only what no meter of the platform takes, so that defining a meter
    never keeps use from being billed.
    """
    if not meters:
        return NOT_MEASURED
    found: list[Measurement] = []
    refusals: list[tuple[Meter, str]] = []
    for meter in meters:
        try:
            measurement = measure(meter, event)
        except UnmeasurableError as error:
            refusals.append((meter, error.code))
            continue
        if measurement is not None:
            found.append(measurement)
    if not refusals:
        return Measured(tuple(found), None, 0)
    by_platform = [code for meter, code in refusals if meter.tenant_id == PLATFORM_TENANT_ID]
    billed = any(each.meter.tenant_id == PLATFORM_TENANT_ID for each in found)
    refusal = by_platform[0] if by_platform else None
    if refusal is None and not billed:
        refusal = refusals[0][1]
    return Measured(tuple(found), refusal, len(refusals))


def measure(meter: Meter, event: Measurable) -> Measurement | None:
    """What the event adds to the meter; None where the meter's filters leave it out.

    Raises:
        UnmeasurableError: the value or a group is missing, of the wrong kind or out of range.
    """
    if meter.event_type != event.type:
        return None
    for path, allowed in meter.filters.items():
        if text_of(_at(event.data, path)) not in allowed:
            return None
    groups = tuple([_group(event.data, path) for path in meter.group_by])
    if meter.aggregation == "count" or meter.value_path is None:
        return Measurement(meter, groups)
    raw = _at(event.data, meter.value_path)
    if raw is None:
        raise UnmeasurableError("missing_value")
    if meter.aggregation == "unique_count":
        unique = text_of(raw)
        if unique is None:
            raise UnmeasurableError("invalid_value")
        return Measurement(meter, groups, unique=unique)
    value = number_of(raw)
    if value < 0 and meter.aggregation in _NEVER_NEGATIVE:
        raise UnmeasurableError("negative_value")
    if meter.aggregation == "percentile":
        value = rank_of(value)
    return Measurement(meter, groups, value=value)


def can_be_backfilled(measurements: Sequence[Measurement]) -> bool:
    """Whether an event may come after the window: a level needs the others of its minute."""
    return all(each.meter.aggregation != "time_weighted_sum" for each in measurements)


def number_of(raw: object) -> Decimal:
    """A number, or decimal text, within 20 digits before the point and 15 after it.

    Raises:
        UnmeasurableError: it is neither, or out of range.
    """
    if isinstance(raw, str) and _DECIMAL_TEXT.fullmatch(raw):
        value = Decimal(raw)
    elif isinstance(raw, Decimal):
        value = raw
    elif isinstance(raw, int) and not isinstance(raw, bool):
        if abs(raw) >= _LARGEST:
            raise UnmeasurableError("value_out_of_range")
        return Decimal(raw)
    else:
        raise UnmeasurableError("invalid_value")
    if not value:
        return Decimal(0)
    if not -FRACTION_DIGITS_MAX <= value.adjusted() < INTEGER_DIGITS_MAX:
        raise UnmeasurableError("value_out_of_range")
    if len(value.as_tuple().digits) > DIGITS_MAX:
        raise UnmeasurableError("value_out_of_range")
    if EXACT.normalize(value).as_tuple().exponent < -FRACTION_DIGITS_MAX:  # type: ignore[operator]
        raise UnmeasurableError("value_out_of_range")
    return value


def text_of(raw: object) -> str | None:
    """A scalar as the text that filters, groups and unique counts compare; None for the rest.

    An absent value is the empty text.
    """
    if isinstance(raw, str):
        return raw
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        return str(raw) if abs(raw) < _LARGEST else None
    return plain(raw) if isinstance(raw, Decimal) and abs(raw.adjusted()) <= 40 else None


def plain(value: Decimal) -> str:
    """Decimal text without exponent and without zeros that say nothing: `1300`, `0.05`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def rank_of(value: Decimal) -> Decimal:
    """A value to three significant digits: those that a percentile counts as the same.

    Rounding keeps the order of values, so the percentile of the ranks is the rank of the percentile,
    however many there are and whatever was put together with what.
    """
    return _RANKS.normalize(value)


def average(total: Decimal, count: int) -> Decimal:
    """The mean of a number of values."""
    return Decimal(0) if count == 0 else divided(total, count)


def divided(total: Decimal, divisor: int) -> Decimal:
    """A quotient, rounded half-even to 12 decimals: the one place where a quantity is rounded."""
    quotient = _DIVISION.divide(total, Decimal(divisor))
    return quotient.quantize(Decimal(1).scaleb(-QUOTIENT_DIGITS), context=_DIVISION)


def _group(data: Mapping[str, Any], path: str) -> str:
    text = text_of(_at(data, path))
    if text is None or len(text) > GROUP_LENGTH_MAX or "\x00" in text:
        raise UnmeasurableError("invalid_group")
    return text


def _at(data: Mapping[str, Any], path: str) -> object:
    """What lies at a dotted path inside objects; None where nothing does."""
    if "." not in path:
        return data.get(path)
    found: object = data
    for name in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found
