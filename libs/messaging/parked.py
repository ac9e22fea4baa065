"""Parking: when an event fails for good and order matters, its key waits and others flow.

Later events of a parked key queue behind it in Postgres. An operator releases the key; the
partition's own consumer then drains the queue in order and frees the key in the transaction that
empties it.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from aiokafka import TopicPartition

from libs.db.pool import Database, Tx
from libs.messaging.dead_letter import headers_from_json, headers_json, printable
from libs.messaging.records import Record

MAX_RECORDS = 10_000
MAX_BYTES = 64 * 1024 * 1024


class ParkFullError(RuntimeError):
    """A key's queue is at its limit: the partition stops until somebody releases the key."""


class Released(NamedTuple):
    """A key to drain, and which release of it this is."""

    place: TopicPartition
    key: str
    released_at: datetime


async def parked_keys(tx: Tx, consumer: str, records: Sequence[Record]) -> set[tuple[str, str]]:
    """Which (topic, key) of these records are parked."""
    first_of_key = {(record.topic, record.key): record for record in records}
    wanted = sorted({(record.topic, record.key_text) for record in first_of_key.values()})
    rows = await tx.fetch(
        """
        select topic, key from parked_key
        join unnest($2::text[], $3::text[]) as u(topic, key) using (topic, key)
        where consumer = $1
        """,
        consumer,
        [topic for topic, _ in wanted],
        [key for _, key in wanted],
    )
    return {(row["topic"], row["key"]) for row in rows}


async def park_key(tx: Tx, consumer: str, record: Record, reason: str, detail: str) -> None:
    """Park the key of a record that cannot be applied; the record waits first in line."""
    await tx.execute(
        """
        insert into parked_key (consumer, topic, key, partition, reason, detail)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        consumer,
        record.topic,
        record.key_text,
        record.partition,
        reason,
        printable(detail)[:2000],
    )
    await queue_behind(tx, consumer, [record])


async def queue_behind(tx: Tx, consumer: str, records: Sequence[Record]) -> None:
    """Put records of parked keys at the end of their queues.

    Raises:
        ParkFullError: a queue would exceed 10,000 records or 64 MB.
    """
    await tx.executemany(
        """
        insert into parked_record (consumer, topic, key, partition, record_offset, record_at, value,
                                   headers)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        [
            (
                consumer,
                record.topic,
                record.key_text,
                record.partition,
                record.offset,
                record.at,
                record.value,
                headers_json(record),
            )
            for record in records
        ],
    )
    for record in records:
        full = await tx.fetchval(
            """
            update parked_key set records = records + 1, bytes = bytes + $4
            where consumer = $1 and topic = $2 and key = $3 returning records > $5 or bytes > $6
            """,
            consumer,
            record.topic,
            record.key_text,
            len(record.value or b""),
            MAX_RECORDS,
            MAX_BYTES,
        )
        if full:
            raise ParkFullError(f"the queue behind {record.topic} {record.key_text} is full")


async def mark_released(tx: Tx, consumer: str, topic: str, key: str) -> bool:
    """Ask the consumer to try a parked key again; False when it is not parked."""
    return bool(
        await tx.execute(
            "update parked_key set released_at = now() "
            "where consumer = $1 and topic = $2 and key = $3",
            consumer,
            topic,
            key,
        )
    )


async def unrelease(database: Database, consumer: str, released: Released, detail: str) -> None:
    """Keep a key parked whose first record failed again, with the new reason.

    A release or a discard that came meanwhile stands: the key is tried once more.
    """
    async with database.maintenance() as tx:
        await tx.execute(
            "update parked_key set released_at = null, detail = $4 "
            "where consumer = $1 and topic = $2 and key = $3 and released_at = $5",
            consumer,
            released.place.topic,
            released.key,
            printable(detail)[:2000],
            released.released_at,
        )


async def released_keys(
    tx: Tx, consumer: str, places: Collection[TopicPartition]
) -> list[Released]:
    """The keys to drain in these partitions, oldest first."""
    rows = await tx.fetch(
        "select topic, key, partition, released_at from parked_key "
        "where consumer = $1 and released_at is not null order by released_at",
        consumer,
    )
    released = [
        Released(TopicPartition(row["topic"], row["partition"]), row["key"], row["released_at"])
        for row in rows
    ]
    return [each for each in released if each.place in places]


@asynccontextmanager
async def as_maintenance(tx: Tx) -> AsyncGenerator[None, None]:
    """Act as the service's maintenance role, which alone sees what is parked, within a transaction."""
    await tx.execute(f"set local role sluice_{tx.service}_maintenance")
    yield
    await tx.execute("set local role none")


async def next_parked(
    tx: Tx, consumer: str, topic: str, key: str, limit: int
) -> list[tuple[int, Record]]:
    """The oldest records in a key's queue with their queue ids. Runs as the maintenance role."""
    rows = await tx.fetch(
        """
        select id, partition, record_offset, record_at, value, headers from parked_record
        where consumer = $1 and topic = $2 and key = $3 order by id limit $4
        """,
        consumer,
        topic,
        key,
        limit,
    )
    return [
        (
            row["id"],
            Record(
                topic,
                row["partition"],
                row["record_offset"],
                row["record_at"],
                key.encode(),
                row["value"],
                headers_from_json(row["headers"]),
            ),
        )
        for row in rows
    ]


async def leave_queue(tx: Tx, consumer: str, topic: str, key: str, ids: Sequence[int]) -> bool:
    """Remove drained records; frees the key and returns True when its queue is empty."""
    await tx.execute(
        """
        with gone as (delete from parked_record where id = any($4::bigint[]) returning value)
        update parked_key set records = records - (select count(*) from gone),
            bytes = bytes - (select coalesce(sum(length(value)), 0) from gone)
        where consumer = $1 and topic = $2 and key = $3
        """,
        consumer,
        topic,
        key,
        list(ids),
    )
    left = await tx.fetchval(
        "select exists (select from parked_record where consumer = $1 and topic = $2 and key = $3)",
        consumer,
        topic,
        key,
    )
    if left:
        return False
    await tx.execute(
        "delete from parked_key where consumer = $1 and topic = $2 and key = $3",
        consumer,
        topic,
        key,
    )
    return True
