"""What waits to be sent: bounded, in order, and counted. No input or output happens here."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sluice_client.event import Event

BATCH_BYTES_MAX = 3 * 1024 * 1024
"""Of JSON in one request; Sluice takes 4 MiB."""


@dataclass(frozen=True)
class Counters:
    """What became of the events so far.

    Attributes:
        tracked: taken by `track`.
        delivered: durable at Sluice (accepted, or a duplicate of one that was).
        rejected: refused by Sluice for good.
        dropped: lost here: the buffer was full, or the program ended before they could be sent.
        spooled: written to disk, to be sent later.
        retries: requests that had to be made again.
    """

    tracked: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: int = 0
    spooled: int = 0
    retries: int = 0


class Queue:
    """Events in memory, the oldest first. Safe for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[tuple[float, Event]] = deque()
        self._lock = threading.Lock()
        self._counters = Counters()

    @property
    def counters(self) -> Counters:
        """What became of the events so far."""
        return self._counters

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> int:
        """Take an event in; how many wait now, 0 where there is no room."""
        with self._lock:
            if len(self._events) >= self._limit:
                return 0
            self._events.append((time.monotonic(), event))
            self._counters = replace(self._counters, tracked=self._counters.tracked + 1)
            return len(self._events)

    def take(self, events_max: int) -> list[Event]:
        """Take a batch out, bounded in number and bytes."""
        batch: list[Event] = []
        size = 0
        with self._lock:
            while self._events and len(batch) < events_max:
                size += len(self._events[0][1].body) + 1
                if batch and size > BATCH_BYTES_MAX:
                    break
                batch.append(self._events.popleft()[1])
        return batch

    def put_back(self, batch: Sequence[Event]) -> None:
        """Return a batch that was not delivered to the head of the line; it may exceed the limit."""
        with self._lock:
            self._events.extendleft((0.0, event) for event in reversed(batch))

    def seconds_until_due(self, batch_events: int, flush_seconds: float) -> float | None:
        """How long until a batch is due; 0 where it is, None where nothing waits."""
        with self._lock:
            if not self._events:
                return None
            if len(self._events) >= batch_events:
                return 0.0
            return max(0.0, self._events[0][0] + flush_seconds - time.monotonic())

    def count(self, **more: int) -> None:
        """Add to the counters by name."""
        with self._lock:
            added = {name: getattr(self._counters, name) + by for name, by in more.items()}
            self._counters = replace(self._counters, **added)

    def clear(self) -> int:
        """Throw everything away; how many events that were."""
        with self._lock:
            thrown = len(self._events)
            self._events.clear()
            return thrown
