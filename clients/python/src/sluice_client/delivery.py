"""One request to Sluice: how it is made, and what its answer means. The sending is the callers'."""

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice_client.event import Event

PATH = "/api/v1/events"
PAUSE_SECONDS_MIN = 0.2
RETRY_AFTER_SECONDS_MAX = 300.0

_TOO_MANY_TENANTS = "too_many_tenants"
"""Of a platform's key: one request may name twenty."""

_CALLERS_FAULT = frozenset({400, 409, 422})
"""Answers that the same request will get for ever."""


@dataclass(frozen=True)
class Rejection:
    """An event that Sluice refused for good, and its stable reason."""

    event_id: str
    source: str
    code: str


@dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    Attributes:
        delivered: events that are durable now.
        rejected: events that were refused for good.
        again: events to send again.
        halve: they are too many for one request.
        pause_seconds: what the server asked to wait, if it did.
        reason: why there is something to send again, for the log.
    """

    delivered: int = 0
    rejected: tuple[Rejection, ...] = ()
    again: tuple[Event, ...] = ()
    halve: bool = False
    pause_seconds: float | None = None
    reason: str | None = None


def headers_of(api_key: str) -> dict[str, str]:
    """The headers of every request."""
    return {
        "Authorization": f"Bearer {api_key}",
        "Content-Type": "application/cloudevents-batch+json",
        "Content-Encoding": "gzip",
        "User-Agent": "sluice-client-python/0.1.0",
    }


def body_of(batch: Sequence[Event]) -> bytes:
    """A batch as the body of a request."""
    return gzip.compress(b"[" + b",".join(event.body for event in batch) + b"]", compresslevel=1)


def read_answer(
    batch: Sequence[Event], status: int, headers: Mapping[str, str], body: bytes
) -> Outcome:
    """What an answer means for each event of the batch."""
    if status == 202:
        return _read_verdicts(batch, body)
    code = _code_of(body) or f"http_{status}"
    if len(batch) > 1 and (status == 413 or code == _TOO_MANY_TENANTS):
        return Outcome(again=tuple(batch), halve=True, reason="too large for one request")
    if status in _CALLERS_FAULT or status == 413:
        return Outcome(rejected=tuple(Rejection(e.id, e.source, code) for e in batch))
    pause = _retry_after(headers.get("retry-after"))
    return Outcome(again=tuple(batch), pause_seconds=pause, reason=f"HTTP {status}")


def unanswered(batch: Sequence[Event], error: BaseException) -> Outcome:
    """No answer came: the events may be there or not; sent again they count once."""
    return Outcome(again=tuple(batch), reason=type(error).__name__)


def pause_before(tries: int, longest_seconds: float, asked_seconds: float | None) -> float:
    """Full jitter (0 to a bound that doubles), but never less than the server asked for."""
    bound = min(longest_seconds, PAUSE_SECONDS_MIN * 2 ** min(tries, 20))
    drawn = random.uniform(0.0, bound)  # noqa: S311 - spreads load, decides nothing
    return max(drawn, asked_seconds or 0.0)


def _read_verdicts(batch: Sequence[Event], body: bytes) -> Outcome:
    """A verdict per event, in the order sent; an answer that is none of ours is no delivery."""
    try:
        results: list[Any] = json.loads(body)["results"]
        verdicts = [(str(each["status"]), each.get("code")) for each in results]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Outcome(again=tuple(batch), reason="an answer that Sluice does not give")
    if len(verdicts) != len(batch):
        return Outcome(again=tuple(batch), reason="an answer for another batch")
    rejected = tuple(
        Rejection(event.id, event.source, str(code or "rejected"))
        for event, (status, code) in zip(batch, verdicts, strict=True)
        if status == "rejected"
    )
    return Outcome(delivered=len(batch) - len(rejected), rejected=rejected)


def _code_of(body: bytes) -> str | None:
    try:
        code = json.loads(body).get("code")
    except (ValueError, AttributeError):
        return None
    return code if isinstance(code, str) else None


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait; a date, the header's other form, Sluice never sends."""
    if value is None or not value.isdigit():
        return None
    return min(float(value), RETRY_AFTER_SECONDS_MAX)
