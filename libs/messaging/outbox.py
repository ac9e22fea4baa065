"""The outbox: events leave in the transaction of the change they tell of.

`emit` buffers; the rows are written as the last statement of the transaction, so that their order
is the order of commits wherever two transactions touched the same thing.
"""

import asyncio
import json
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import MAX_EVENT_BYTES, D, Envelope, Fact, wrap
from libs.contracts.topics import TOPIC_OF
from libs.db.pool import Cause, Tx
from libs.db.tenant import Scope
from libs.messaging.told import told
from libs.observability.tracing import inject

SHARDS = 4
_json = json.JSONEncoder(check_circular=False).encode


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


@dataclass(frozen=True, slots=True)
class Letter:
    """An event in the words in which it leaves, and the row that it leaves by."""

    event: Envelope[Any]
    row: tuple[Any, ...]


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
    letter = compose(tx, data, effective_at=effective_at, tenant_id=tenant_id, cause=cause)
    send(tx, letter)
    return cast("Envelope[D]", letter.event)


def compose(
    tx: Tx,
    data: Fact,
    *,
    effective_at: datetime | None = None,
    tenant_id: UUID | None = None,
    cause: Cause | None = None,
) -> Letter:
    """An event that may be sent in this transaction; see `emit`.

    So the words can be found while Postgres is still asked whether they are true.

    Raises:
        EventTooLargeError: the event is over 512 KiB.
    """
    because = cause or tx.cause
    event = wrap(
        told(data),
        tenant_id=tenant_id or tx.tenant_id,
        mode=tx.scope.mode,
        source=tx.service,
        effective_at=effective_at or utc_now(),
        causation_id=because.causation_id,
        correlation_id=because.correlation_id,
    )
    payload = event.model_dump_json(exclude={"stream_seq"})
    if len(payload.encode()) > MAX_EVENT_BYTES:
        raise EventTooLargeError(f"{event.type} of {len(payload)} characters is over 512 KiB")
    row = (
        event.tenant_id,
        event.mode,
        TOPIC_OF[type(data)].name,
        event.id,
        event.type,
        payload,
        _json(inject() if because.trace is None else because.trace),
        shard_of(event.tenant_id),
    )
    return Letter(event, row)


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
        columns = list(zip(*(row for _, row in tx.emitted[start:end]), strict=True))
        await tx.execute(
            """
            insert into outbox (tenant_id, mode, topic, event_id, event_type, payload, headers, shard)
            select t, m, o, e, y, p, h::jsonb, s
            from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[],
                        $7::text[], $8::smallint[]) with ordinality as u(t, m, o, e, y, p, h, s, n)
            order by n
            """,
            *[list(column) for column in columns],
        )
        start = end
