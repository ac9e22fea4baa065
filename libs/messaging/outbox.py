"""The outbox: events leave in the transaction of the change they tell of.

`emit` buffers; the rows are written as the last statement of the transaction, so that their order
is the order of commits wherever two transactions touched the same thing.
"""

import asyncio
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from libs.clock import utc_now
from libs.contracts.envelope import MAX_EVENT_BYTES, D, Envelope, Fact, wrap
from libs.contracts.topics import TOPIC_OF
from libs.db import arrays
from libs.db.pool import Cause, Tx
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.messaging.told import told
from libs.observability.tracing import inject

SHARDS = 4
_json = msgspec.json.encode


class EventTooLargeError(ValueError):
    """An event over 512 KiB is refused where it is emitted."""


class OutboxSignal:
    """Wakes the relay of this process when rows were committed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Rows were committed."""
        self._event.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Until rows are committed here, or the time is up (another process may have written)."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


SIGNAL = OutboxSignal()


def shard_of(tenant_id: UUID) -> int:
    """The relay shard of a tenant; stable for ever."""
    return zlib.crc32(tenant_id.bytes) % SHARDS


class Sender(Protocol):
    """Who sends, and for whom: a transaction, or a single statement that is one by itself."""

    @property
    def service(self) -> str:
        """The service that tells."""

    @property
    def scope(self) -> Scope:
        """The tenants it tells of, and the mode."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An event in the words in which it leaves: the row that it leaves by."""

    row: tuple[Any, ...]

    @property
    def event_id(self) -> UUID:
        """Of the event."""
        event_id: UUID = self.row[3]
        return event_id


def emit(
    tx: Tx,
    data: D,
    *,
    effective_at: datetime | None = None,
    tenant_id: UUID | None = None,
    cause: Cause | None = None,
) -> Envelope[D]:
    """Send an event of the tenant in scope when this transaction commits.

    Args:
        tenant_id: which of the tenants in scope, where there are several.
        cause: what led to it, where the transaction has several causes.
        effective_at: business time at which the fact holds; handlers pass the time of the event
            they handle. Without it: now, for facts that no business time orders.

    Raises:
        EventTooLargeError: the event is over 512 KiB.
    """
    event, letter = write(
        tx,
        data,
        effective_at=effective_at or utc_now(),
        tenant_id=tenant_id or tx.tenant_id,
        cause=cause or tx.cause,
    )
    send(tx, letter)
    return event


def write(
    sender: Sender, data: D, *, effective_at: datetime, tenant_id: UUID, cause: Cause
) -> tuple[Envelope[D], Letter]:
    """An event that may be sent; see `emit`.

    Raises:
        EventTooLargeError: the event is over 512 KiB.
    """
    event = wrap(
        told(data),
        tenant_id=tenant_id,
        mode=sender.scope.mode,
        source=sender.service,
        effective_at=effective_at,
        causation_id=cause.causation_id,
        correlation_id=cause.correlation_id,
    )
    payload = event.model_dump_json(exclude={"stream_seq"}).encode()
    return event, _letter(sender, type(data), event.tenant_id, event.id, payload, cause)


def compose(
    sender: Sender,
    kind: type[Fact],
    data: Mapping[str, Any],
    *,
    effective_at: datetime,
    tenant_id: UUID,
    cause: Cause,
) -> Letter:
    """An event that may be sent in this transaction, where there are hundreds of a kind; see `emit`.

    So the words can be found while Postgres is still asked whether they are true. Nothing looks at
    them again: audit facts, in which something is masked, go by `emit`.

    Args:
        data: every field of the fact as its model has them, in that order.

    Raises:
        EventTooLargeError: the event is over 512 KiB.
    """
    event_id = new_id()
    event = {
        "id": event_id,
        "tenant_id": tenant_id,
        "mode": sender.scope.mode,
        "type": kind.__name__,
        "occurred_at": utc_now(),
        "effective_at": effective_at,
        "source": sender.service,
        "causation_id": cause.causation_id,
        "correlation_id": cause.correlation_id or event_id,
        "data": data,
    }
    return _letter(sender, kind, tenant_id, event_id, _json(event), cause)


def _letter(
    sender: Sender, kind: type[Fact], tenant_id: UUID, event_id: UUID, payload: bytes, cause: Cause
) -> Letter:
    if len(payload) > MAX_EVENT_BYTES:
        raise EventTooLargeError(f"{kind.__name__} of {len(payload)} bytes is over 512 KiB")
    row = (
        tenant_id,
        sender.scope.mode,
        TOPIC_OF[kind].name,
        event_id,
        kind.__name__,
        payload.decode(),
        _json(inject() if cause.trace is None else cause.trace).decode(),
        shard_of(tenant_id),
    )
    return Letter(row)


def send(tx: Tx, letter: Letter) -> None:
    """Send an event that was composed in this transaction, in the scope of now, when it commits."""
    if not tx.emitted:
        tx.before_commit.append(_write)
        tx.after_commit.append(SIGNAL.set)
    tx.emitted.append((tx.scope, letter.row))


async def _write(tx: Tx) -> None:
    """Write the buffered rows in their order, a statement per run of rows of the same mode."""
    start = 0
    while start < len(tx.emitted):
        mode = tx.emitted[start][0].mode
        end = start
        while end < len(tx.emitted) and tx.emitted[end][0].mode == mode:
            end += 1
        # Of one scope there may be a thousand rows, and many tenants in it.
        scopes = {id(scope): scope for scope, _ in tx.emitted[start:end]}
        tenants = {tenant for scope in scopes.values() for tenant in scope.tenants}
        if set(tx.scope.tenants) != tenants or tx.scope.mode != mode:
            await tx.enter(Scope(tuple(sorted(tenants)), mode))
        await tx.execute(
            """
            insert into outbox (tenant_id, mode, topic, event_id, event_type, payload, headers, shard)
            select t, m, o, e, y, p, h::jsonb, s
            from unnest($1::text::uuid[], $2::text::text[], $3::text::text[], $4::text::uuid[],
                        $5::text::text[], string_to_array($6, E'\n'), string_to_array($7, E'\n'),
                        $8::text::smallint[]) with ordinality as u(t, m, o, e, y, p, h, s, n)
            order by n
            """,
            *columns(row for _, row in tx.emitted[start:end]),
        )
        start = end


def columns(rows: Iterable[tuple[Any, ...]]) -> tuple[str, ...]:
    """The rows of letters, column by column, each as one text.

    Arrays as Postgres writes them, but for payloads and headers: these stand in a line each.
    """
    tenants, modes, topics, events, kinds, payloads, headers, shards = zip(*rows, strict=True)
    return (
        arrays.uuids(tenants),
        arrays.texts(modes),
        arrays.texts(topics),
        arrays.uuids(events),
        arrays.texts(kinds),
        # JSON has no line breaks of its own.
        "\n".join(payloads),
        "\n".join(headers),
        arrays.numbers(shards),
    )
