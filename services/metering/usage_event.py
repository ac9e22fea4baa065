"""A usage event off the topic, read out of a record's bytes: any bytes, and always the same verdict.

What our own ingest writes is read by a typed decoder in C. Whatever that refuses is judged by the
contract's model, which says what is wrong with it, or takes what is merely unusual.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from pydantic import ValidationError

from libs.clock import InvalidTimeError, format_time, parse_time
from libs.contracts.envelope import Mode
from libs.contracts.usage import UsageEvent
from libs.ids import parse_uuid
from libs.messaging.records import UndecodableError
from services.metering import exact_json

REMEMBERED = 4_096
"""Tenants and stamps of ours that were read lately: thousands of events share them."""

CLOCK_OFFSET_MAX = 10**10
"""Seconds: more than the calendar has."""

SECONDS_LENGTH, MICROSECONDS_LENGTH = (
    len("2026-01-31T12:00:00Z"),
    len("2026-01-31T12:00:00.123456Z"),
)
MARKS, MICROSECONDS_MARKS = "--T::Z", "--T::."
"""Every third character from the fifth to the twentieth."""

_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


class Event(msgspec.Struct, frozen=True, gc=False):
    """One use of the product; the attributes are those of `libs.contracts.usage.UsageEvent`.

    Attributes:
        time_text: the time as `format_time` writes it.
        by_platform: the platform reported it, not the tenant.
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    userid: str | None
    mode: Mode
    tenantid: UUID | None
    receivedat: datetime | None
    clockoffset: int
    data: dict[str, Any]
    time_text: str
    backfill: UUID | None = None
    by_platform: bool = False

    def received_at(self, broker_time: datetime) -> datetime:
        """When the event came in: the ingest's stamp, or the broker's for direct producers."""
        return self.receivedat or broker_time


class _Written(msgspec.Struct, gc=False):
    """The attributes as they stand on the topic, within the contract's bounds."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    source: Annotated[str, Meta(min_length=1, max_length=256)]
    type: Annotated[str, Meta(min_length=1, max_length=128)]
    time: str
    mode: Mode
    specversion: Literal["1.0"] = "1.0"
    subject: Annotated[str, Meta(max_length=128)] | None = None
    userid: Annotated[str, Meta(max_length=128)] | None = None
    tenantid: str | None = None
    receivedat: str | None = None
    clockoffset: int = 0
    data: dict[str, Any] = {}
    backfill: str | None = None
    reportedbytheplatform: bool = False


_DECODER = msgspec.json.Decoder(_Written, float_hook=exact_json.read_number)


def read_event(value: bytes) -> Event:
    """The event in a record's value.

    Raises:
        UndecodableError: it is none.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise UndecodableError("not_json", "the value is not JSON") from None
    try:
        written = _DECODER.decode(text)
        time = parse_time(written.time)
        event = Event(
            written.id,
            written.source,
            written.type,
            written.subject,
            time,
            written.userid,
            written.mode,
            None if written.tenantid is None else _uuid_in(written.tenantid),
            None if written.receivedat is None else _moment_in(written.receivedat),
            written.clockoffset,
            written.data,
            written.time if is_as_written(written.time) else format_time(time),
            None if written.backfill is None else _uuid_in(written.backfill),
            written.reportedbytheplatform,
        )
    except (msgspec.DecodeError, ValueError, RecursionError):
        event = _by_the_contract(text)
    if "\\u0000" in text and has_nul(
        event.id, event.source, event.type, event.subject, event.userid
    ):
        raise UndecodableError("invalid_text", "an attribute holds a NUL character")
    return event


def has_nul(*texts: str | None) -> bool:
    """Whether a text holds what Postgres cannot."""
    for text in texts:  # noqa: SIM110 - a generator would take three times as long, for every event
        if text is not None and "\x00" in text:
            return True
    return False


def is_as_written(time: str) -> bool:
    """Whether a text that was read as a time stands just as `format_time` would write it.

    Of the forms that `parse_time` takes, a few marks in their places tell it.
    """
    if len(time) == SECONDS_LENGTH:
        return time[4:20:3] == MARKS
    return (
        len(time) == MICROSECONDS_LENGTH
        and time[4:20:3] == MICROSECONDS_MARKS
        and time[20:] != "000000Z"
        and time[26] == "Z"
    )


@lru_cache(maxsize=REMEMBERED)
def _uuid_in(text: str) -> UUID:
    found = parse_uuid(text)
    if found is None:
        raise ValueError("not in the ordinary form")
    return found


@lru_cache(maxsize=REMEMBERED)
def _moment_in(text: str) -> datetime:
    if not _STAMP.fullmatch(text):
        raise ValueError("not in the ordinary form")
    return parse_time(text)


def _by_the_contract(text: str) -> Event:
    try:
        document = exact_json.loads(text)
    except (ValueError, RecursionError):
        raise UndecodableError("not_json", "the value is not JSON") from None
    if not isinstance(document, dict):
        raise UndecodableError("not_an_event", "the value is not an object")
    offset = document.get("clockoffset", 0)
    if type(offset) is not int or abs(offset) > CLOCK_OFFSET_MAX:
        # Before the model tries to make a whole number of, say, 1e999999999.
        raise UndecodableError("not_an_event", "`clockoffset` is no number of seconds")
    try:
        document["time"] = parse_time(document.get("time", ""))
        event = UsageEvent.model_validate(document)
    except (InvalidTimeError, TypeError):
        raise UndecodableError("invalid_time", "the event's time is no RFC 3339 time") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise UndecodableError("not_an_event", detail[:500]) from None
    if event.specversion != "1.0":
        raise UndecodableError("unknown_specversion", "the event is of another specification")
    return Event(
        event.id,
        event.source,
        event.type,
        event.subject,
        event.time,
        event.userid,
        event.mode,
        event.tenantid,
        event.receivedat,
        event.clockoffset,
        event.data,
        format_time(event.time),
        event.backfill,
        event.reportedbytheplatform,
    )
