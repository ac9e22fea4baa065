"""Events as nearly all are sent: known attributes of the right kinds and nothing else.

They are read and written by typed coders in C, several times as fast as `ingest.read_event`, and come
to the same bytes and verdicts. Whatever is not plain is left to that one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from libs.clock import format_time
from libs.contracts.envelope import Mode
from services.metering import exact_json
from services.metering.ingest import (
    Arrival,
    RejectedError,
    Taken,
    measured_at,
    read_time,
    written,
)
from services.metering.usage_event import has_nul, is_as_written


class Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as sent, within the contract's bounds; an attribute that is null counts as absent."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    source: Annotated[str, Meta(min_length=1, max_length=256)]
    type: Annotated[str, Meta(min_length=1, max_length=128)]
    specversion: Literal["1.0"] | None = None
    subject: Annotated[str, Meta(max_length=128)] | None = None
    time: str | None = None
    userid: Annotated[str, Meta(max_length=128)] | None = None
    mode: Mode | None = None
    tenantid: str | None = None
    datacontenttype: Literal["application/json"] | None = None
    data: dict[str, Any] = {}


class _Published(msgspec.Struct, gc=False):
    """An event as it stands on the topic; the names in order."""

    clockoffset: int
    data: dict[str, Any]
    datacontenttype: str
    id: str
    mode: Mode
    receivedat: str
    reportedbytheplatform: bool | UnsetType
    source: str
    specversion: str
    subject: str | UnsetType
    tenantid: str
    time: str
    type: str
    userid: str | UnsetType


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_PLAIN = msgspec.json.Decoder(Plain, float_hook=exact_json.read_number)
_ALL_PLAIN = msgspec.json.Decoder(list[Plain], float_hook=exact_json.read_number)


def read_array(text: str) -> Sequence[Plain | msgspec.Raw]:
    """The items of a JSON array: read where all are plain, otherwise unread.

    Raises:
        ValueError: it is none.
    """
    try:
        return _ALL_PLAIN.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return _ARRAY.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not an array") from error


def read_item(item: Any) -> Any:
    """An item as an event as sent: plain where it is, otherwise the JSON value it is.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    if not isinstance(item, msgspec.Raw):
        return item
    try:
        return _PLAIN.decode(item)
    except (msgspec.DecodeError, RecursionError):
        return exact_json.loads(bytes(item).decode())


def read_plain(sent: Plain, arrival: Arrival) -> Taken:
    """A plain event as it will stand on the topic, stamped with when it came in.

    Raises:
        RejectedError: it cannot be counted.
    """
    time = read_time(sent.time)
    if sent.mode is not None and sent.mode != arrival.mode:
        raise RejectedError("wrong_mode")
    if has_nul(sent.id, sent.source, sent.type, sent.subject, sent.userid):
        raise RejectedError("invalid_text")
    metered = measured_at(time or arrival.business_time, sent, arrival)
    published = _Published(
        arrival.clock_offset_seconds,
        sent.data,
        "application/json",
        sent.id,
        arrival.mode,
        arrival.received_text,
        True if arrival.by_platform else UNSET,
        sent.source,
        "1.0",
        UNSET if sent.subject is None else sent.subject,
        arrival.tenant_text,
        _text_of(sent, time, arrival),
        sent.type,
        UNSET if sent.userid is None else sent.userid,
    )
    said = (sent.type, sent.subject, sent.userid, time, sent.data)
    return Taken(written(published), sent, said, metered)


def _text_of(sent: Plain, time: datetime | None, arrival: Arrival) -> str:
    """The event's time as it is written on the topic."""
    if time is None or sent.time is None:
        return arrival.business_text
    return sent.time if is_as_written(sent.time) else format_time(time)
