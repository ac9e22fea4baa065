"""Judging events one by one before they are published: a verdict each, in input order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import ValidationError

from libs.clock import InvalidTimeError, format_time, parse_time
from libs.contracts.envelope import Mode
from libs.contracts.usage import UsageEvent
from services.metering import exact_json
from services.metering.intake import has_nul
from services.metering.measuring import Meter, measure_all
from services.metering.reserved_events import SOURCE
from services.metering.window import time_problem

EVENT_BYTES_MAX = 64 * 1024
EXTENSIONS_MAX = 20
EXTENSION_LENGTH_MAX = 1_024

_EXTENSION = re.compile("[a-z0-9]{1,20}")
_ATTRIBUTES = frozenset(UsageEvent.model_fields)
_STAMPS = frozenset({"receivedat", "clockoffset"})
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)

Status = Literal["accepted", "duplicate", "rejected"]


@dataclass(frozen=True)
class Arrival:
    """For whom, in which mode and when events come in.

    Attributes:
        clock_offset_seconds: how far the tenant's business clock is ahead.
        meters: those that apply to the tenant's events.
    """

    tenant_id: UUID
    mode: Mode
    received_at: datetime
    clock_offset_seconds: int
    meters: Sequence[Meter]

    @property
    def business_time(self) -> datetime:
        """The tenant's business time at receipt: the time of an event that names none."""
        return self.received_at + timedelta(seconds=self.clock_offset_seconds)


@dataclass(frozen=True)
class Verdict:
    """What becomes of one event.

    Attributes:
        code: why it was rejected; `no_meter` on an accepted one that no meter counts.
    """

    id: str | None
    source: str | None
    status: Status
    code: str | None = None


class RejectedError(ValueError):
    """The event is not taken; `code` is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Taken:
    """An event that is taken: as it will be published, and what tells it from a twin."""

    value: bytes
    event: UsageEvent
    said: tuple[Any, ...]
    metered: bool


def read_event(sent: object, arrival: Arrival) -> Taken:
    """An event as it will stand on the topic, stamped with when it came in.

    Raises:
        RejectedError: it cannot be counted.
    """
    if not isinstance(sent, dict):
        raise RejectedError("not_an_object")
    attributes, extensions = _split(sent)
    time = _read_time(attributes.get("time"))
    attributes["time"] = time or arrival.business_time
    given_mode = attributes.get("mode")
    if given_mode is not None and given_mode != arrival.mode:
        raise RejectedError("wrong_mode")
    attributes |= {"mode": arrival.mode, "tenantid": arrival.tenant_id}
    attributes |= {
        "receivedat": arrival.received_at,
        "clockoffset": arrival.clock_offset_seconds,
    }
    event = _validate(attributes)
    problem = time_problem(event.time, arrival.business_time)
    if problem is not None:
        raise RejectedError(problem)
    measured = measure_all([m for m in arrival.meters if m.event_type == event.type], event)
    if measured.refusal is not None:
        raise RejectedError(measured.refusal)
    said = (event.type, event.subject, event.userid, time, event.data)
    return Taken(_publishable(event, extensions), event, said, bool(measured.measurements))


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
    return exact_json.dumps(document).encode()


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


def _read_time(value: object) -> datetime | None:
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
    if has_nul(event):
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
    try:
        value = exact_json.dumps(document).encode()
    except exact_json.InvalidNumberError:
        raise RejectedError("invalid_number") from None
    except UnicodeEncodeError:
        raise RejectedError("invalid_text") from None
    except (RecursionError, ValueError):
        raise RejectedError("invalid_data") from None
    if len(value) > EVENT_BYTES_MAX:
        raise RejectedError("event_too_large")
    return value


class Batch:
    """The events of one request: verdicts in input order, and what is to be published."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.values: dict[UUID, list[bytes]] = {}
        self._seen: dict[tuple[UUID, str, str], tuple[Any, ...]] = {}

    def judge(self, sent: object, arrival: Arrival) -> None:
        """Take an event in, or say why not."""
        if _text_at(sent, "source") == SOURCE:
            self.reject(sent, "reserved_source")
            return
        try:
            taken = read_event(sent, arrival)
        except RejectedError as rejected:
            self.reject(sent, rejected.code)
            return
        event = taken.event
        twin = self._seen.setdefault((arrival.tenant_id, event.source, event.id), taken.said)
        if twin is taken.said:
            self.values.setdefault(arrival.tenant_id, []).append(taken.value)
            code = None if taken.metered else "no_meter"
            self.verdicts.append(Verdict(event.id, event.source, "accepted", code))
        elif twin == taken.said:
            self.verdicts.append(Verdict(event.id, event.source, "duplicate"))
        else:
            self.reject(sent, "id_conflict")

    def reject(self, sent: object, code: str) -> None:
        """Refuse an event; the rest of the request is not touched by it."""
        self.verdicts.append(
            Verdict(_text_at(sent, "id"), _text_at(sent, "source"), "rejected", code)
        )


def _text_at(sent: object, name: str) -> str | None:
    """What the event is called, for its verdict, where that is text worth repeating."""
    value = sent.get(name) if isinstance(sent, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        return None
    return value.encode("utf-8", "replace").decode()
