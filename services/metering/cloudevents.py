"""Reading the body of `POST /api/v1/events` into events as sent, whatever form they come in.

CloudEvents 1.0 over HTTP: structured (`application/cloudevents+json`), batched
(`application/cloudevents-batch+json`) and binary (headers `ce-*`, data as the body); and plain JSON,
one object or an array of them. Any of these may be gzipped.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from libs.web.problems import InvalidRequest, TooLarge, UnsupportedMediaType
from services.metering import exact_json
from services.metering.plain_events import Plain, read_array, read_item

EVENTS_MAX = 1_000
BODY_BYTES_MAX = 4 * 1024 * 1024
INFLATED_BYTES_MAX = 8 * 1024 * 1024

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PLAIN = "application/json"


class TooManyEvents(TooLarge):
    """413: more events than one request takes."""

    default_code = "too_many_events"
    default_title = "Too many events"
    default_detail = f"A request takes up to {EVENTS_MAX} events. Send them in smaller batches."


def read_events(headers: Mapping[str, str], body: bytes) -> list[Any]:
    """The events of a request in order, each `Plain` or the JSON value that was sent.

    Raises:
        InvalidRequest: not JSON, not gzip, or nothing in it.
        TooLarge: over 1,000 events, or over 8 MiB after inflating.
        UnsupportedMediaType: another content type or encoding.
    """
    media_type = headers.get("content-type", PLAIN).partition(";")[0].strip().lower()
    if media_type not in (STRUCTURED, BATCH, PLAIN):
        raise UnsupportedMediaType(
            f"This path reads `{PLAIN}`, `{STRUCTURED}` and `{BATCH}`. Send one of them."
        )
    text = _text_of(_inflate(headers, body))
    if media_type == PLAIN and ("ce-id" in headers or "ce-specversion" in headers):
        return [_attributes_of(headers) | {"data": _read(exact_json.loads, text)}]
    events = _read(_items_of, text)
    if media_type == BATCH and not isinstance(events, list):
        raise InvalidRequest("A CloudEvents batch is an array of events.", code="not_a_batch")
    if media_type == STRUCTURED and not isinstance(events, dict):
        raise InvalidRequest("A structured CloudEvent is an object.", code="not_an_event")
    if not isinstance(events, dict | list):
        raise InvalidRequest("Send an event, or an array of events.", code="not_an_event")
    if isinstance(events, dict):
        return [events]
    if not events:
        raise InvalidRequest("The array is empty. Send at least one event.", code="empty_batch")
    if len(events) > EVENTS_MAX:
        raise TooManyEvents
    return [item if isinstance(item, Plain) else _read(read_item, item) for item in events]


def _inflate(headers: Mapping[str, str], body: bytes) -> bytes:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise UnsupportedMediaType("This path reads gzip, or no content encoding at all.")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, INFLATED_BYTES_MAX + 1)
    except zlib.error:
        raise InvalidRequest("The body is not gzip.", code="invalid_encoding") from None
    if len(inflated) > INFLATED_BYTES_MAX:
        raise TooLarge
    if not inflater.eof or inflater.unused_data:
        raise InvalidRequest("The body is not one whole gzip stream.", code="invalid_encoding")
    return inflated


def _text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise _not_json() from None


def _read(read: Callable[[Any], Any], given: object) -> Any:
    try:
        return read(given)
    except (ValueError, RecursionError):
        raise _not_json() from None


def _not_json() -> InvalidRequest:
    return InvalidRequest(
        "The body is not valid JSON in UTF-8. Correct it and send it again.", code="invalid_json"
    )


def _items_of(text: str) -> Any:
    """The items of an array, unread; or the value that is none, or is odd JSON, as it is."""
    try:
        return read_array(text)
    except ValueError:
        return exact_json.loads(text)


def _attributes_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """The attributes of a binary event: headers `ce-<name>`, percent-encoded UTF-8."""
    found: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith("ce-") and _ATTRIBUTE.fullmatch(name[3:]):
            found[name[3:]] = unquote(value, errors="replace")
    return found


_ATTRIBUTE = re.compile("[a-z0-9]{1,20}")
