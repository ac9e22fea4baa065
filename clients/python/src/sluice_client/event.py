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
) -> Event:
    """Write an event down as it is now; changing `data` afterwards changes nothing.

    Decimals travel as text, which Sluice reads exactly.

    Raises:
        InvalidEventError: not JSON, a time without a zone, or over 64 KiB.
    """
    moment = at or datetime.now(UTC)
    if moment.tzinfo is None:
        raise InvalidEventError("the event's time has no time zone: make it an aware datetime")
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id or new_id(),
        "source": source,
        "type": event_type,
        "time": moment.astimezone(UTC).isoformat(),
        "data": dict(data or {}),
    }
    named = {"subject": customer, "userid": user, "tenantid": tenant}
    document |= {name: value for name, value in named.items() if value is not None}
    try:
        body = json.dumps(
            document, default=_exact, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEventError(f"the event cannot be written as JSON: {error}") from None
    if len(body) > EVENT_BYTES_MAX:
        raise InvalidEventError(f"the event has {len(body)} bytes; {EVENT_BYTES_MAX} are allowed")
    return Event(document["id"], source, body)


def _exact(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
