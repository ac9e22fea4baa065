"""Judging an event before it is published: taken, or rejected with a reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

import msgspec
from pydantic import ValidationError

from libs.clock import InvalidTimeError, format_time, parse_time
from libs.contracts.envelope import Mode
from libs.contracts.usage import UsageEvent
from services.metering import exact_json
from services.metering.ears import Ears, plain_ears
from services.metering.measuring import (
    Measurable,
    Meter,
    UnmeasurableError,
    can_be_backfilled,
    measure_all,
)
from services.metering.usage_event import has_nul
from services.metering.voiding import VOIDED
from services.metering.window import AGE_MAX, AHEAD_MAX, backfill_problem, time_problem

EVENT_BYTES_MAX = 64 * 1024
EXTENSIONS_MAX = 20
EXTENSION_LENGTH_MAX = 1_024

_EXTENSION = re.compile("[a-z0-9]{1,20}")
_ATTRIBUTES = frozenset(UsageEvent.model_fields)
_STAMPS = frozenset({"receivedat", "clockoffset", "backfill", "reportedbytheplatform"})
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Arrival:
    """For whom, in which mode and when events come in.

    Attributes:
        clock_offset_seconds: how far the tenant's business clock is ahead.
        meters: those that apply to the tenant's events.
        spread: over how many partitions the tenant's usage is spread.
        backfill: they are taken in by this backfill, not to be counted now.
        by_platform: the platform reports them, not the tenant.
    """

    tenant_id: UUID
    mode: Mode
    received_at: datetime
    clock_offset_seconds: int
    meters: Sequence[Meter]
    spread: int = 1
    backfill: UUID | None = None
    by_platform: bool = False

    @cached_property
    def business_time(self) -> datetime:
        """The tenant's business time at receipt: the time of an event that names none."""
        return self.received_at + timedelta(seconds=self.clock_offset_seconds)

    @cached_property
    def taken_times(self) -> tuple[datetime, datetime]:
        """The first and the last time of use that is taken."""
        return self.business_time - AGE_MAX, self.business_time + AHEAD_MAX

    @cached_property
    def received_text(self) -> str:
        """The stamp as it is written on the topic."""
        return format_time(self.received_at)

    @cached_property
    def business_text(self) -> str:
        """The business time as it is written on the topic."""
        return format_time(self.business_time)

    @cached_property
    def tenant_text(self) -> str:
        """The tenant as it is written on the topic."""
        return str(self.tenant_id)

    @cached_property
    def listening(self) -> Mapping[str, Sequence[Meter]]:
        """The meters by the type of event they listen to."""
        found: dict[str, list[Meter]] = {}
        for meter in self.meters:
            found.setdefault(meter.event_type, []).append(meter)
        return found

    @cached_property
    def ears(self) -> Mapping[str, Ears]:
        """The same, of types whose meters are all read in a few looks."""
        return plain_ears(self.meters)


class RejectedError(ValueError):
    """The event is not taken; `code` is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Taken(msgspec.Struct, frozen=True, gc=False):
    """An event that is taken: as it will be published, and what tells it from a twin."""

    value: bytes
    event: Measurable
    said: tuple[Any, ...]
    metered: bool

    @property
    def subject(self) -> str | None:
        """The customer that it names."""
        subject: str | None = self.said[1]
        return subject


def read_event(sent: object, arrival: Arrival) -> Taken:
    """An event as it will stand on the topic, stamped with when it came in.

    Raises:
        RejectedError: it cannot be counted.
    """
    if not isinstance(sent, dict):
        raise RejectedError("not_an_object")
    attributes, extensions = _split(sent)
    time = read_time(attributes.get("time"))
    attributes["time"] = time or arrival.business_time
    given_mode = attributes.get("mode")
    if given_mode is not None and given_mode != arrival.mode:
        raise RejectedError("wrong_mode")
    attributes |= {"mode": arrival.mode, "tenantid": arrival.tenant_id}
    attributes |= {
        "receivedat": arrival.received_at,
        "clockoffset": arrival.clock_offset_seconds,
        "backfill": arrival.backfill,
        "reportedbytheplatform": arrival.by_platform,
    }
    event = _validate(attributes)
    metered = measured_at(event.time, event, arrival)
    said = (event.type, event.subject, event.userid, time, event.data)
    return Taken(_publishable(event, extensions), event, said, metered)


def measured_at(time: datetime, event: Measurable, arrival: Arrival) -> bool:
    """Whether some meter counts an event of this time.

    Raises:
        RejectedError: the time is not taken, or a meter cannot use the event.
    """
    if arrival.backfill is not None:
        problem = backfill_problem(time, arrival.business_time)
        if problem is not None:
            raise RejectedError(problem)
    elif not arrival.taken_times[0] <= time <= arrival.taken_times[1]:
        raise RejectedError(time_problem(time, arrival.business_time) or "invalid_time")
    if event.type == VOIDED:
        raise RejectedError("reserved_type")
    ears = arrival.ears.get(event.type)
    if ears is not None:
        try:
            return ears.take(event.data)
        except UnmeasurableError:
            # Whether the event must be refused is told by all its meters together.
            pass
    measured = measure_all(arrival.listening.get(event.type, ()), event)
    if measured.refusal is not None:
        raise RejectedError(measured.refusal)
    if arrival.backfill is not None and not can_be_backfilled(measured.measurements):
        raise RejectedError("not_backfillable")
    return bool(measured.measurements)


def stamped_anew(value: bytes, at: datetime) -> bytes:
    """A published event as if it came in at `at`; its time stays what it was.

    The business clock's offset shrinks by as much, in whole seconds, so that the event's age is judged
    as it was then and it is the same event to the last byte of its hash.
    """
    document = exact_json.loads(value.decode())
    received_at = parse_time(document["receivedat"])
    later = int((at - received_at).total_seconds())
    document["receivedat"] = format_time(received_at + timedelta(seconds=later))
    document["clockoffset"] = int(document["clockoffset"]) - later
    return exact_json.dumps(document)


def _split(sent: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes we know, and the extensions that travel along; nulls count as absent."""
    attributes: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    for name, value in sent.items():
        if value is None or name in _STAMPS:
            continue
        if name in _ATTRIBUTES:
            attributes[name] = value
        elif name == "data_base64":
            raise RejectedError("data_not_json")
        elif name == "datacontenttype":
            if not isinstance(value, str) or not _JSON_TYPE.fullmatch(value):
                raise RejectedError("data_not_json")
        elif not _EXTENSION.fullmatch(name) or not _is_extension_value(value):
            raise RejectedError("invalid_attribute")
        else:
            extensions[name] = value
    if len(extensions) > EXTENSIONS_MAX:
        raise RejectedError("too_many_attributes")
    return attributes, extensions


def _is_extension_value(value: object) -> bool:
    """CloudEvents' attribute types: text, boolean, 32-bit integer."""
    if isinstance(value, str):
        return len(value) <= EXTENSION_LENGTH_MAX
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**31)


def read_time(value: object) -> datetime | None:
    """The time that an event names; None where it names none.

    Raises:
        RejectedError: no RFC 3339 time.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise RejectedError("invalid_time")
    try:
        return parse_time(value)
    except InvalidTimeError:
        raise RejectedError("invalid_time") from None


def _validate(attributes: dict[str, Any]) -> UsageEvent:
    try:
        event = UsageEvent.model_validate(attributes)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        kind = "missing" if first["type"] == "missing" else "invalid"
        raise RejectedError(f"{kind}_{first['loc'][0]}") from None
    if event.specversion != "1.0":
        raise RejectedError("unknown_specversion")
    if has_nul(event.id, event.source, event.type, event.subject, event.userid):
        raise RejectedError("invalid_text")
    return event


def _publishable(event: UsageEvent, extensions: dict[str, Any]) -> bytes:
    document = extensions | {
        "specversion": event.specversion,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": format_time(event.time),
        "mode": event.mode,
        "tenantid": str(event.tenantid),
        "clockoffset": event.clockoffset,
        "datacontenttype": "application/json",
        "data": event.data,
    }
    if event.subject is not None:
        document["subject"] = event.subject
    if event.userid is not None:
        document["userid"] = event.userid
    if event.receivedat is not None:
        document["receivedat"] = format_time(event.receivedat)
    if event.backfill is not None:
        document["backfill"] = str(event.backfill)
    if event.reportedbytheplatform:
        document["reportedbytheplatform"] = True
    return written(document)


def written(document: object) -> bytes:
    """An event as it will stand on the topic.

    Raises:
        RejectedError: it cannot be written, or is too large.
    """
    try:
        value = exact_json.dumps(document)
    except exact_json.InvalidNumberError:
        raise RejectedError("invalid_number") from None
    except UnicodeEncodeError:
        raise RejectedError("invalid_text") from None
    except (RecursionError, ValueError):
        raise RejectedError("invalid_data") from None
    if len(value) > EVENT_BYTES_MAX:
        raise RejectedError("event_too_large")
    return value
