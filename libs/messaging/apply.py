"""Applying records inside one transaction: inbox, handlers, parking, dead letters, fence.

Nothing here knows Kafka's client; tests feed it records directly.
"""

import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from libs.contracts.envelope import Envelope, Fact
from libs.db.pool import TRANSIENT_ERRORS, Cause, Tx
from libs.db.tenant import NOBODY, Scope
from libs.messaging.dead_letter import DeadLetter, bury
from libs.messaging.inbox import note_streams, take_new
from libs.messaging.parked import ParkFullError, park_key, parked_keys, queue_behind
from libs.messaging.records import Record, UndecodableError, decode
from libs.observability.metrics import HANDLER_SECONDS, RECORDS_CONSUMED_TOTAL
from libs.observability.tracing import extract, spans_beside, start_span

log = structlog.get_logger()

Handler = Callable[[Envelope[Any], Tx], Awaitable[None]]
"""One consumed event -> one domain call, inside the transaction of the batch."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event, and itself as the cause of what comes of it (for `emit`).

    Attributes:
        made: what `Together.ahead` made of the event; None where it was not asked, or failed.
    """

    event: Envelope[Any]
    cause: Cause
    made: Any = None


@dataclass(frozen=True)
class Together:
    """A handler of many events at once, for set-based work: (deliveries, tx) -> one domain call.

    All deliveries of a call are of one mode and in the order in which they came; their tenants, which
    may be several, are in scope. What comes after an event of another handler is in another call.

    Attributes:
        ahead: makes of an event what follows from it alone, while the batch before is at work.
    """

    work: Callable[[Sequence[Delivery], Tx], Awaitable[None]]
    ahead: Callable[[Envelope[Any]], Any] | None = None

    async def __call__(self, event: Envelope[Any], tx: Tx) -> None:
        """Handle one event alone."""
        await self.work([Delivery(event, tx.cause)], tx)


BatchHandler = Callable[[Sequence[Record], Tx], Awaitable[None]]
"""All records of one topic at once, for set-based work; it decodes and deduplicates itself."""

STRIKES = 5
BOTH_BOOKS = ("platform", "tenant")


class TransientError(Exception):
    """Raised by a handler whose work will succeed later; the batch is tried again."""


Arrived = tuple[Record, Envelope[Fact]]


class Read(msgspec.Struct, frozen=True, gc=False):
    """What a record says. It rests on the record's bytes alone, and is read ahead of its turn.

    Attributes:
        event: None for a type that this version does not know.
        refusal: why the bytes are no event.
        made: see `Delivery`.
    """

    event: Envelope[Fact] | None = None
    refusal: UndecodableError | None = None
    made: Any = None


RETRIED: tuple[type[BaseException], ...] = (*TRANSIENT_ERRORS, TransientError, ParkFullError)


class ConsumerStoppedError(RuntimeError):
    """Five permanent failures in a row: more likely a bad deploy than bad events."""


NOT_ISOLATED: tuple[type[BaseException], ...] = (*RETRIED, ConsumerStoppedError)


@dataclass
class Applier:
    """How one consumer applies records.

    Attributes:
        name: the consumer; fences and inbox rows carry it.
        handlers: a function per event type; other types are passed over.
        batch_handlers: a function per topic that is handled as a whole.
        parks: order matters, so a failing event parks its key; otherwise it becomes a dead letter.
        strikes: permanent failures since the last event that succeeded.
        handled: events that a handler took, also in what was rolled back. What no handler takes
            (other types, events seen before, those of a parked key) does not end a row of strikes.
    """

    name: str
    handlers: Mapping[type[Fact], Handler]
    batch_handlers: Mapping[str, BatchHandler] = field(default_factory=dict)
    parks: bool = True
    strikes: int = 0
    handled: int = 0

    def read_ahead(self, record: Record) -> Read:
        """Read a record before its turn, and let its handler begin what needs no Postgres."""
        read = _read(record)
        if read.event is None:
            return read
        handle = self.handlers.get(type(read.event.data))
        if isinstance(handle, Together) and handle.ahead is not None:
            # Whatever it raises, the work will raise too, where the event is isolated.
            with suppress(Exception):
                return Read(read.event, made=handle.ahead(read.event))
        return read

    async def apply(self, tx: Tx, records: Sequence[Record]) -> None:
        """Apply records in order; what fails for good is isolated by bisection.

        Raises:
            TransientError and its kin: try the whole transaction again.
            ConsumerStoppedError: too many permanent failures in a row.
        """
        if not records:
            return
        emitted, scope = len(tx.emitted), tx.scope
        before, after = len(tx.before_commit), len(tx.after_commit)
        handled = self.handled
        try:
            async with tx.connection.transaction():
                await self._apply_all(tx, records)
            if self.handled > handled:
                self.strikes = 0
        except NOT_ISOLATED:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is isolated, never lost
            # With what was emitted goes what is done at and after the commit on its account.
            del tx.emitted[emitted:], tx.before_commit[before:], tx.after_commit[after:]
            tx.scope = scope
            if len(records) == 1:
                await self._divert(tx, records[0], error)
                return
            middle = len(records) // 2
            await self.apply(tx, records[:middle])
            await self.apply(tx, records[middle:])

    async def apply_parked(self, tx: Tx, record: Record) -> None:
        """Apply one record from a parked queue; it gets its inbox row now.

        What this version cannot read becomes a dead letter: it must not keep its key parked.

        Raises:
            Exception: whatever the handler raises; the key then stays parked.
        """
        await tx.enter(NOBODY)
        try:
            event = decode(record)
        except UndecodableError as error:
            await bury(tx, self.name, [DeadLetter(record, error.reason, str(error))])
            return
        if event is None or type(event.data) not in self.handlers:
            return
        if await take_new(tx, self.name, [event.id]):
            await self._handle(tx, record, event)

    async def _apply_all(self, tx: Tx, records: Sequence[Record]) -> None:
        singles = [record for record in records if record.topic not in self.batch_handlers]
        if singles:
            await self._apply_events(tx, singles)
        for topic, handle in self.batch_handlers.items():
            batch = [record for record in records if record.topic == topic]
            if batch:
                with HANDLER_SECONDS.labels(event_type=topic).time():
                    await handle(batch, tx)
                self.handled += len(batch)
                RECORDS_CONSUMED_TOTAL.labels(topic=topic).inc(len(batch))

    async def _apply_events(self, tx: Tx, records: Sequence[Record]) -> None:
        """Events one by one: undecodable bytes are buried, parked keys queue, the rest is handled."""
        await tx.enter(NOBODY)
        readable, letters = _decode_all(records)
        await bury(tx, self.name, letters)
        await self._note_streams(tx, readable)
        if self.parks and readable:
            waiting = await parked_keys(tx, self.name, [record for record, _ in readable])
            behind = [r for r, _ in readable if waiting and (r.topic, r.key_text) in waiting]
            if behind:
                await queue_behind(tx, self.name, behind)
                readable = [(r, e) for r, e in readable if (r.topic, r.key_text) not in waiting]
        # What nobody handles has no effect to keep from happening twice, and parts no neighbours.
        events = [(r, e) for r, e in readable if e is not None and type(e.data) in self.handlers]
        new = await take_new(tx, self.name, [event.id for _, event in events]) if events else set()
        fresh = events
        if len(new) < len(events):
            fresh = []
            for record, event in events:
                if event.id in new:
                    new.discard(event.id)
                    fresh.append((record, event))
        for together, run in itertools.groupby(fresh, key=self._together):
            if together is not None:
                await self._handle_together(tx, together, list(run))
                continue
            for record, event in run:
                await self._handle(tx, record, event)

    async def _note_streams(
        self, tx: Tx, readable: Sequence[tuple[Record, Envelope[Fact] | None]]
    ) -> None:
        """Look for holes in the streams, also where the event is put aside: it did arrive."""
        events = [(record, event) for record, event in readable if event is not None]
        missing = await note_streams(tx, self.name, events)
        if missing:
            log.error("stream_gap", consumer=self.name, missing_records=missing)

    def _together(self, arrived: Arrived) -> Together | None:
        """How this event is handled with its neighbours; None where it is handled alone."""
        handle = self.handlers.get(type(arrived[1].data))
        return handle if isinstance(handle, Together) else None

    async def _handle_together(self, tx: Tx, handle: Together, arrived: Sequence[Arrived]) -> None:
        """Handle neighbours in one call per mode: events of different modes have no order."""
        for mode in {event.mode: None for _, event in arrived}:
            mine = [(record, event) for record, event in arrived if event.mode == mode]
            tenants = tuple(sorted({event.tenant_id for _, event in mine}))
            await tx.enter(Scope(tenants, mode, BOTH_BOOKS))
            started = time.perf_counter()
            behind = [record.header("traceparent") for record, _ in mine]

            def shown(at: int, arrived: Sequence[Arrived] = mine) -> tuple[str, dict[str, Any]]:
                record, event = arrived[at]
                attributes = {"topic": record.topic, "event_id": event.id}
                return f"{self.name} {event.type}", attributes

            with spans_beside(behind, shown) as traces:
                deliveries = []
                for (record, event), trace in zip(mine, traces, strict=True):
                    cause = Cause(event.id, event.correlation_id, trace)
                    made = record.prepared.made if isinstance(record.prepared, Read) else None
                    deliveries.append(Delivery(event, cause, made))
                await handle.work(deliveries, tx)
            self.handled += len(mine)
            each = (time.perf_counter() - started) / len(mine)
            for kind, number in Counter(event.type for _, event in mine).items():
                seconds = HANDLER_SECONDS.labels(event_type=kind)
                for _ in range(number):
                    seconds.observe(each)
            for topic, number in Counter(record.topic for record, _ in mine).items():
                RECORDS_CONSUMED_TOTAL.labels(topic=topic).inc(number)

    async def _handle(self, tx: Tx, record: Record, event: Envelope[Fact]) -> None:
        handle = self.handlers.get(type(event.data))
        if handle is None:
            return
        await tx.enter(Scope((event.tenant_id,), event.mode, BOTH_BOOKS))
        tx.cause = Cause(event.id, event.correlation_id)
        started = time.perf_counter()
        with start_span(
            f"{self.name} {event.type}",
            parent=extract(_headers_of(record)),
            topic=record.topic,
            event_id=str(event.id),
        ):
            await handle(event, tx)
        self.handled += 1
        HANDLER_SECONDS.labels(event_type=event.type).observe(time.perf_counter() - started)
        RECORDS_CONSUMED_TOTAL.labels(topic=record.topic).inc()

    async def _divert(self, tx: Tx, record: Record, error: Exception) -> None:
        """Put one failing record aside: park its key, or bury it."""
        self.strikes += 1
        detail = f"{type(error).__name__}: {error}"
        log.error(
            "record_failed",
            consumer=self.name,
            topic=record.topic,
            error=detail[:500],
            partition=record.partition,
            offset=record.offset,
            strikes=self.strikes,
        )
        if self.strikes >= STRIKES:
            raise ConsumerStoppedError(detail)
        if record.topic not in self.batch_handlers:
            await self._note_streams(tx, _decode_all([record])[0])
        await tx.enter(NOBODY)
        if self.parks and record.topic not in self.batch_handlers:
            await park_key(tx, self.name, record, type(error).__name__, detail)
        else:
            await bury(tx, self.name, [DeadLetter(record, type(error).__name__, detail)])


def _headers_of(record: Record) -> dict[str, str]:
    """The headers of the trace that the record carries on."""
    return {"traceparent": record.header("traceparent") or ""}


def _decode_all(
    records: Sequence[Record],
) -> tuple[list[tuple[Record, Envelope[Fact] | None]], list[DeadLetter]]:
    """What can be read, with its event (None for an unknown type), and what cannot."""
    readable: list[tuple[Record, Envelope[Fact] | None]] = []
    letters = []
    for record in records:
        read = record.prepared if isinstance(record.prepared, Read) else _read(record)
        if read.refusal is None:
            readable.append((record, read.event))
            continue
        letters.append(DeadLetter(record, read.refusal.reason, str(read.refusal)))
        log.warning(
            "record_undecodable",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=read.refusal.reason,
        )
    return readable, letters


def _read(record: Record) -> Read:
    try:
        return Read(event=decode(record))
    except UndecodableError as error:
        return Read(refusal=error.unraised())
