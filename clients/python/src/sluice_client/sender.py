"""What to send next, and what follows from how it went: shared by thread and task, without waiting."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sluice_client.delivery import Outcome, Rejection, pause_before
from sluice_client.event import Event
from sluice_client.options import Options
from sluice_client.queue import Queue
from sluice_client.spool import Spool, SpooledBatch

log = logging.getLogger("sluice_client")

ELSEWHERE_SECONDS = 0.5
"""All that lies on disk is being sent by another process: how long until the next look."""

COMPLAINT_SECONDS = 30.0
"""A server that stays away is told of once in this time."""


@dataclass(frozen=True)
class Batch:
    """Events to send in one request, from memory or from disk."""

    events: tuple[Event, ...]
    spooled: SpooledBatch | None = None


class Sender:
    """The state between requests: pauses after failures, the size that the server takes."""

    def __init__(self, queue: Queue, options: Options) -> None:
        self._queue = queue
        self._options = options
        self._spool = Spool(options.spool, options.spool_bytes) if options.spool else None
        self._batch_events = options.batch_events
        self._tries = 0
        self._resume_at = 0.0
        self._complained_at = float("-inf")
        self._spool_after = 0.0
        self._in_flight: Batch | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits: on its way, in memory or on disk."""
        waits = self._in_flight is not None or len(self._queue)
        return not waits and (self._spool is None or self._spool.is_empty())

    def wait_seconds(self, *, hurry: bool) -> float | None:
        """How long until there is something to do; None: until something is tracked.

        Args:
            hurry: an incomplete batch is due at once; a pause after a failure still holds.
        """
        due = self._queue.seconds_until_due(self._batch_events, self._options.flush_seconds)
        if self._spool is not None and not self._spool.is_empty():
            later = max(0.0, self._spool_after - time.monotonic())
            due = later if due is None else min(due, later)
        if due is None:
            return None
        pause = self._resume_at - time.monotonic()
        return max(0.0, pause) if hurry else max(due, pause, 0.0)

    def next_batch(self) -> Batch | None:
        """What to send now: what waits on disk first, for it is older."""
        self._in_flight = self._next()
        return self._in_flight

    def _next(self) -> Batch | None:
        if self._spool is not None and time.monotonic() >= self._spool_after:
            spooled = self._spool.oldest()
            if spooled is not None:
                return Batch(spooled.events, spooled)
            self._spool_after = time.monotonic() + ELSEWHERE_SECONDS
        events = self._queue.take(self._batch_events)
        return Batch(tuple(events)) if events else None

    def settle(self, batch: Batch, outcome: Outcome) -> None:
        """Draw the consequences of an attempt; what was given up meanwhile has none."""
        if self._in_flight is not batch:
            return
        self._queue.count(delivered=outcome.delivered, rejected=len(outcome.rejected))
        for rejection in outcome.rejected:
            self._tell(rejection)
        if not outcome.again:
            self._tries = 0
            if batch.spooled is not None:
                batch.spooled.delete()
            self._in_flight = None
            return
        self._queue.count(retries=1)
        if outcome.halve:
            self._split(batch)
            self._in_flight = None
            return
        pause = pause_before(self._tries, self._options.pause_seconds_max, outcome.pause_seconds)
        self._tries += 1
        self._resume_at = time.monotonic() + pause
        self._complain(outcome.reason, pause)
        self._keep(batch)
        self._in_flight = None

    def take_back(self) -> None:
        """What was on its way and never settled waits again: sent twice it counts once."""
        batch, self._in_flight = self._in_flight, None
        if batch is None:
            return
        if batch.spooled is not None:
            batch.spooled.release()
        else:
            self._queue.put_back(batch.events)

    def give_up(self) -> None:
        """The program ends: what is left goes to disk, or is lost and counted."""
        self.take_back()
        while events := self._queue.take(self._options.batch_events):
            if not self._write(events):
                self._queue.count(dropped=len(events))
                log.error("%d usage events were lost: they could not be delivered", len(events))

    def _keep(self, batch: Batch) -> None:
        """Keep a batch for another try: on disk where that is possible, else in memory.

        What waits behind it goes to disk too, so that memory stays free while the server is away.
        """
        if batch.spooled is not None:
            batch.spooled.release()
        elif not self._write(batch.events):
            self._queue.put_back(batch.events)
            return
        while self._spool is not None and (events := self._queue.take(self._batch_events)):
            if not self._write(events):
                self._queue.put_back(events)
                return

    def _write(self, events: Sequence[Event]) -> bool:
        """Put events on disk, where there is a spool with room."""
        written = self._spool is not None and self._spool.write(events)
        if written:
            self._queue.count(spooled=len(events))
        return written

    def _split(self, batch: Batch) -> None:
        """Send fewer events at once from now on; those of a file on disk become two files."""
        half = max(1, len(batch.events) // 2)
        self._batch_events = min(self._batch_events, half)
        if batch.spooled is None or self._spool is None:
            self._queue.put_back(batch.events)
            return
        kept = [self._spool.write(part) for part in (batch.events[:half], batch.events[half:])]
        if all(kept):
            batch.spooled.delete()
        else:
            batch.spooled.release()

    def _tell(self, rejection: Rejection) -> None:
        log.warning("Sluice rejected usage event %s: %s", rejection.event_id, rejection.code)
        if self._options.on_rejected is None:
            return
        try:
            self._options.on_rejected(rejection)
        except Exception:
            log.exception("on_rejected failed")

    def _complain(self, reason: str | None, pause: float) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAINT_SECONDS:
            self._complained_at = now
            log.warning("usage could not be delivered (%s); trying on in %.1f s", reason, pause)
