"""What a consumer reaches that promises exactly-once counting and nothing else we promise.

`python -m tests.bench.plain_consumer DSN KAFKA`: ids, sums and counts of two fixed meters and the place in the
topic in one commit, the next batch decoded while Postgres works. No tenants' meters, row-level security,
conflicts, limits, time windows, voids, archive or hostile bytes.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.contracts.topics import PARTITIONS
from services.metering.usage_log import TOPIC

BATCH_RECORDS = 5_000
DECODED_AT_ONCE = 50
TABLES = """
create table plain_fence (partition int primary key, next_offset bigint not null);
create table plain_id (tenant uuid not null, source text not null, id uuid not null,
    payload_hash bytea not null, unique (tenant, source, id));
create table plain_minute (tenant uuid not null, customer text not null, region text not null,
    minute text not null, event_count bigint not null, total bigint not null,
    primary key (tenant, customer, region, minute));
"""


class Data(msgspec.Struct, gc=False):
    """What the meters look at."""

    calls: int
    region: str


class Event(msgspec.Struct, gc=False):
    """What is counted of an event."""

    tenantid: str
    source: str
    id: str
    subject: str
    time: str
    data: Data


Entry = tuple[str, str, str, bytes, Event]
DECODER = msgspec.json.Decoder(Event)


async def decode(records: Sequence[Any]) -> list[Entry]:
    """Read a batch, a stretch at a time: the batch at work must not wait for all of it."""
    entries = []
    for number, record in enumerate(records):
        event = DECODER.decode(record.value)
        hashed = blake2b(record.value, digest_size=8).digest()
        entries.append((event.tenantid, event.source, event.id, hashed, event))
        if number % DECODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return entries


async def count(connection: Any, entries: Sequence[Entry], fences: dict[int, int]) -> None:
    """One transaction: place locked, ids entered, what was new added up, place moved."""
    async with connection.transaction():
        places = sorted(fences)
        await connection.fetch(
            "select from plain_fence where partition = any($1) order by partition for update",
            places,
        )
        *columns, _ = map(list, zip(*entries, strict=True))
        rows = await connection.fetch(
            "insert into plain_id select * from unnest($1::text[]::uuid[], $2::text[], "
            "$3::text[]::uuid[], $4::bytea[]) on conflict do nothing returning id::text",
            *columns,
        )
        new = {row[0] for row in rows}
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        totals: dict[tuple[str, ...], int] = defaultdict(int)
        for tenant, _, event_id, _, event in entries:
            if event_id in new:
                cell = tenant, event.subject, event.data.region, event.time[:16]
                counts[cell] += 1
                totals[cell] += event.data.calls
        cells = sorted(counts)
        await connection.execute(
            "insert into plain_minute as m select * from unnest($1::text[]::uuid[], $2::text[], "
            "$3::text[], $4::text[], $5::bigint[], $6::bigint[]) on conflict (tenant, customer, "
            "region, minute) do update set event_count = m.event_count + excluded.event_count, "
            "total = m.total + excluded.total",
            *map(list, zip(*cells, strict=True)),
            [counts[cell] for cell in cells],
            [totals[cell] for cell in cells],
        )
        await connection.execute(
            "update plain_fence f set next_offset = u.next_offset "
            "from unnest($1::int[], $2::bigint[]) as u(partition, next_offset) "
            "where f.partition = u.partition",
            places,
            [fences[place] for place in places],
        )


async def main(dsn: str, kafka: str) -> None:
    """Count what comes from now on, until killed."""
    connection = await asyncpg.connect(dsn)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await consumer.start()
    places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    consumer.assign(places)
    fences = [(place.partition, await consumer.position(place)) for place in places]
    async with connection.transaction():
        await connection.execute(TABLES)
        await connection.executemany("insert into plain_fence values ($1, $2)", fences)
    at_work = None
    while True:
        found = await consumer.getmany(timeout_ms=200, max_records=BATCH_RECORDS)
        records = [record for mine in found.values() for record in mine]
        if records:
            entries = await decode(records)
            if at_work is not None:
                await at_work
            ends = {place.partition: mine[-1].offset + 1 for place, mine in found.items()}
            at_work = asyncio.create_task(count(connection, entries, ends))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
