"""A usage event as it will be sent, made when it is tracked.

Format: CloudEvents 1.0 in JSON (https://cloudevents.io), with the extensions that Sluice reads.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sluice_client.errors import InvalidEventError

EVENT_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its id, and the JSON that is sent, byte for byte, however often it is tried."""

    id: str
    source: str
    body: bytes


def new_id() -> str:
    """A UUIDv7 (RFC 9562): the time in milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(UUID(int=value))


def make(
    event_type: str,
    data: Mapping[str, Any] | None,
    *,
    source: str,
    event_id: str | None,
    customer: str | None,
    user: str | None,
    tenant: str | None,
    at: datetime | None,
    attributes: Mapping[str, str] | None,
) -> Event:
    """Write an event down as it is now; changing `data` afterwards changes nothing.

    Decimals travel as text, which Sluice reads exactly.

    Raises:
        InvalidEventError: not JSON, a time that is none or without a zone, or over 64 KiB.
    """
    time_text = _text_of(at)
    named = {"subject": customer, "userid": user, "tenantid": tenant}
    try:
        made_id = event_id or new_id()
        document: dict[str, Any] = {
            **(attributes or {}),
            **{name: value for name, value in named.items() if value is not None},
            "specversion": "1.0",
            "id": made_id,
            "source": source,
            "type": event_type,
            "time": time_text,
            "data": dict(data or {}),
        }
        body = json.dumps(
            document, default=_exact, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        ).encode()
    # What callers hand over may raise anything when it is looked into.
    except Exception as error:
        raise InvalidEventError(f"the event cannot be written as JSON: {error}") from error
    if len(body) > EVENT_BYTES_MAX:
        raise InvalidEventError(f"the event has {len(body)} bytes; {EVENT_BYTES_MAX} are allowed")
    return Event(made_id, source, body)


def _text_of(at: datetime | None) -> str:
    """A time in UTC, as RFC 3339 writes it."""
    moment = datetime.now(UTC) if at is None else at
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidEventError("the event's time is no aware datetime: give it a time zone")
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidEventError("the event's time is outside of the calendar in UTC") from None


def _exact(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
