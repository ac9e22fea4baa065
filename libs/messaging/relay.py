"""The relay: outbox rows to Kafka, in order, at least once.

One relay per shard of hash(tenant), held by an advisory lock on a connection of its own: when the
process or its connection dies another takes over. Before the first send each row gets its
`stream_seq`, so consumers can see a hole. Rows are chosen by "not sent", never by "id greater than
the last": ids are given before commits.

What is sent to a partition at once is one record batch, which Kafka keeps as a whole or not at all. So
many rows are on their way at once, and still none overtakes another where sending fails half-way: a
round that failed is sent again from its beginning.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Any

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from libs.db import arrays
from libs.db.pool import TRANSIENT_ERRORS, Database, Row
from libs.messaging.outbox import SHARDS, SIGNAL
from libs.messaging.records import TYPE_HEADER
from libs.messaging.stopping import drop_unsent, stop_within
from libs.observability.health import Check
from libs.observability.metrics import (
    OUTBOX_OLDEST_AGE_SECONDS,
    OUTBOX_SENT_TOTAL,
    OUTBOX_UNSENT_RECORDS,
    RELAY_ERRORS_TOTAL,
)

log = structlog.get_logger()

BATCH_ROWS = 500
BATCH_BYTES_MAX = 1_000_000
"""Of one partition in one round; brokers take record batches of up to 1 MiB (`message.max.bytes`)."""
SEND_TIMEOUT_SECONDS = 30.0
STOP_SECONDS = 5.0
IDLE_POLL_SECONDS = 1.0
MEASURE_SECONDS = 2.0

KEYS_REMEMBERED_MAX = 10_000
_PARTITIONER = DefaultPartitioner()
"""Java's: murmur2 of the key, modulo the number of partitions."""


class Relay:
    """Sends what this service's outbox holds; `run` until cancelled."""

    def __init__(self, database: Database, bootstrap: str, *, pause_seconds: float = 0.0) -> None:
        """Set a relay up.

        Args:
            pause_seconds: see `Runtime.add_relay`.
        """
        self._database = database
        self._pause_seconds = pause_seconds
        self._bootstrap = bootstrap
        self._producer: AIOKafkaProducer | None = None
        self._connection: Any = None
        self._shards: list[int] = []
        self._last_error: str | None = None
        self._measure_at = 0.0

    async def run(self) -> None:
        """Relay for ever: send what is there, then wait for more; back off while Kafka is away."""
        pause_seconds = 0.1
        try:
            while True:
                try:
                    sent = await self._relay_once()
                    pause_seconds, self._last_error = 0.1, None
                    if not sent:
                        await SIGNAL.wait(IDLE_POLL_SECONDS)
                    elif sent < BATCH_ROWS:
                        await asyncio.sleep(self._pause_seconds)
                except (KafkaError, *TRANSIENT_ERRORS) as error:
                    RELAY_ERRORS_TOTAL.labels(error=type(error).__name__).inc()
                    self._last_error = f"{type(error).__name__}: {error}"[:200]
                    log.warning(
                        "relay_failed", error=self._last_error, retry_in_seconds=pause_seconds
                    )
                    await self._let_go()
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(pause_seconds * 2, 5.0)
        finally:
            await self._let_go()

    def check(self) -> Check:
        """Whether the last attempt to send went well."""
        return Check(ok=self._last_error is None, detail=self._last_error or "sending")

    async def _relay_once(self) -> int:
        """Send the oldest rows of the shards held; how many."""
        connection = await self._hold_shards()
        if asyncio.get_running_loop().time() >= self._measure_at:
            await self._measure(connection)
        rows = await number_rows(connection, self._shards)
        return await self._relay(connection, rows)

    async def _relay(self, connection: Any, rows: list[Row]) -> int:
        """Send rows, as many at once as fit, and note each time which; how many."""
        done = 0
        while done < len(rows):
            sent = await self._send(rows[done:])
            await connection.execute(
                "update outbox set sent_at = now() where id = any($1::text::bigint[])",
                arrays.numbers(row["id"] for row in sent),
            )
            for topic, number in Counter(row["topic"] for row in sent).items():
                OUTBOX_SENT_TOTAL.labels(topic=topic).inc(number)
            done += len(sent)
        return done

    async def _hold_shards(self) -> Any:
        """A connection that holds the advisory locks of as many shards as are free."""
        if self._connection is None or self._connection.is_closed():
            self._shards = []
            self._connection = await self._database.pool.acquire(timeout=5)
            await self._connection.execute(f"set role sluice_{self._database.service}_maintenance")
        for shard in range(SHARDS):
            if shard not in self._shards and await self._connection.fetchval(
                "select pg_try_advisory_lock(hashtext($1), $2)",
                f"sluice.relay.{self._database.service}",
                shard,
            ):
                self._shards.append(shard)
        return self._connection

    async def _send(self, rows: list[Row]) -> list[Row]:
        """Send rows in order up to the first that does not fit; those, acknowledged by all replicas."""
        producer = await self._connected()
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            batches, packed = await _pack(producer, rows)
            acknowledgements = [
                await producer.send_batch(batch, topic, partition=partition)
                for (topic, partition), batch in batches.items()
            ]
            await asyncio.gather(*acknowledgements)
        return packed

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                enable_idempotence=True,
                acks="all",
                request_timeout_ms=15_000,
                max_batch_size=BATCH_BYTES_MAX,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def _let_go(self) -> None:
        """Give up locks and producer: the next attempt starts with new ones.

        What the producer still holds is dropped before another relay can have the locks: sent later,
        an old snapshot would lie behind a newer one. Nothing of it counts as sent.
        """
        connection, self._connection, self._shards = self._connection, None, []
        producer, self._producer = self._producer, None
        if producer is not None:
            drop_unsent(producer)
        if connection is not None:
            # Its role and its locks must not go back into the pool. A connection that was lost
            # has left the pool by itself.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            await self._database.pool.release(connection)
        if producer is not None:
            await stop_within(producer, STOP_SECONDS)

    async def _measure(self, connection: Any) -> None:
        """Show what waits; also while nothing can be sent, for then it matters."""
        row = await connection.fetchrow(
            "select count(*) n, extract(epoch from now() - min(created_at)) age "
            "from outbox where sent_at is null"
        )
        self._measure_at = asyncio.get_running_loop().time() + MEASURE_SECONDS
        OUTBOX_UNSENT_RECORDS.set(row["n"])
        OUTBOX_OLDEST_AGE_SECONDS.set(float(row["age"] or 0))


async def _pack(
    producer: AIOKafkaProducer, rows: Sequence[Row]
) -> tuple[dict[tuple[str, int], BatchBuilder], list[Row]]:
    """One record batch for each partition, and the rows that are in them: the first that fit."""
    partitions = {
        topic: tuple(sorted(await producer.partitions_for(topic)))
        for topic in sorted({row["topic"] for row in rows})
    }
    batches: dict[tuple[str, int], BatchBuilder] = {}
    packed = []
    for row in rows:
        topic, key = row["topic"], str(row["tenant_id"]).encode()
        place = topic, _partition_of(key, partitions[topic])
        batch = batches.get(place)
        if batch is None:
            batch = batches[place] = producer.create_batch()
        headers = [
            (TYPE_HEADER, row["event_type"].encode()),
            *((name, text.encode()) for name, text in row["headers"].items()),
        ]
        value = stamp(row["payload"], row["stream_seq"])
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            break
        packed.append(row)
    for batch in batches.values():
        batch.close()
    return batches, packed


@lru_cache(KEYS_REMEMBERED_MAX)
def _partition_of(key: bytes, partitions: tuple[int, ...]) -> int:
    """Where records of a key go; remembered, for Python takes a while to work the hash out."""
    partition: int = _PARTITIONER(key, partitions, partitions)
    return partition


def stamp(payload: str, stream_seq: int) -> bytes:
    """The event's bytes with its stream number; the same for every attempt to send it."""
    return f'{payload[:-1]},"stream_seq":{stream_seq}}}'.encode()


async def number_rows(connection: Any, shards: Sequence[int]) -> list[Row]:
    """The oldest unsent rows of these shards, each with its number in its stream."""
    async with connection.transaction():
        rows = await connection.fetch(
            """
            select unsent.* from unnest($1::smallint[]) as held(shard)
            cross join lateral (
                select id, tenant_id, topic, event_type, payload, headers, stream_seq from outbox
                where shard = held.shard and sent_at is null order by id limit $2
            ) unsent
            order by unsent.id limit $2
            """,
            list(shards),
            BATCH_ROWS,
        )
        fresh = [row for row in rows if row["stream_seq"] is None]
        if not fresh:
            return list(rows)
        more = Counter((row["tenant_id"], row["topic"]) for row in fresh)
        streams = sorted(more)
        last = {
            (row["tenant_id"], row["topic"]): row["last_seq"]
            for row in await connection.fetch(
                """
                insert into stream (tenant_id, topic, last_seq)
                select t, o, n from unnest($1::text::uuid[], $2::text::text[], $3::text::bigint[])
                    as u(t, o, n)
                on conflict (tenant_id, topic) do update
                    set last_seq = stream.last_seq + excluded.last_seq
                returning tenant_id, topic, last_seq
                """,
                arrays.uuids(tenant for tenant, _ in streams),
                arrays.texts(topic for _, topic in streams),
                arrays.numbers(more[stream] for stream in streams),
            )
        }
        following = {stream: count(last[stream] - more[stream] + 1) for stream in streams}
        numbers = {row["id"]: next(following[row["tenant_id"], row["topic"]]) for row in fresh}
        await connection.execute(
            "update outbox o set stream_seq = u.seq from unnest($1::text::bigint[], "
            "$2::text::bigint[]) as u(id, seq) where o.id = u.id",
            arrays.numbers(numbers),
            arrays.numbers(numbers.values()),
        )
    return [{**dict(row), "stream_seq": numbers.get(row["id"], row["stream_seq"])} for row in rows]
