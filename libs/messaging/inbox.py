"""The inbox: each consumer takes an event id once; and the check for holes in streams."""

from collections.abc import Sequence
from uuid import UUID

from libs.contracts.envelope import Envelope, Fact
from libs.contracts.topics import TOPICS
from libs.db import arrays
from libs.db.pool import Tx
from libs.db.tenant import Scope
from libs.messaging.records import Record
from libs.observability.metrics import STREAM_GAP_RECORDS_TOTAL

COMPACTED = frozenset(topic.name for topic in TOPICS if topic.cleanup == "compact")


async def take_new(tx: Tx, consumer: str, event_ids: Sequence[UUID]) -> set[UUID]:
    """Enter ids into the inbox; those that were not there before."""
    rows = await tx.fetch(
        "insert into inbox (consumer, event_id) select $1, unnest($2::text::uuid[]) "
        "on conflict do nothing returning event_id",
        consumer,
        arrays.uuids(dict.fromkeys(event_ids)),
    )
    return {row["event_id"] for row in rows}


async def note_streams(
    tx: Tx, consumer: str, events: Sequence[tuple[Record, Envelope[Fact]]]
) -> int:
    """Remember the highest number seen of each stream; the number of events missing before these.

    The first number seen of a stream sets the base. A hole is a lost event: it is counted, an
    alert that must stay at zero, and does not stop the consumer. Compaction makes holes of its
    own, so compacted topics have no such check.
    """
    numbers: dict[tuple[UUID, str, str], list[int]] = {}
    for record, event in events:
        if event.stream_seq is not None and record.topic not in COMPACTED:
            stream = (event.tenant_id, record.topic, event.source)
            numbers.setdefault(stream, []).append(event.stream_seq)
    if not numbers:
        return 0
    await tx.enter(Scope(tuple(sorted({stream[0] for stream in numbers}))))
    streams = sorted(numbers)
    tenants, topics, sources = zip(*streams, strict=True)
    # What is read is of before the statement, whatever it writes.
    rows = await tx.fetch(
        """
        with seen as (
            select * from unnest($2::text::uuid[], $3::text::text[], $4::text::text[],
                $5::text::bigint[]) as u(tenant_id, topic, source, highest_seq)
        ), noted as (
            insert into stream_position as p (consumer, tenant_id, topic, source, last_seq)
            select $1, tenant_id, topic, source, highest_seq from seen
            on conflict (tenant_id, consumer, topic, source)
                do update set last_seq = excluded.last_seq
                where p.last_seq < excluded.last_seq
        )
        select tenant_id, topic, source, p.last_seq
        from stream_position p join seen using (tenant_id, topic, source)
        where p.consumer = $1
        """,
        consumer,
        arrays.uuids(tenants),
        arrays.texts(topics),
        arrays.texts(sources),
        arrays.numbers(max(numbers[stream]) for stream in streams),
    )
    last = {(row["tenant_id"], row["topic"], row["source"]): row["last_seq"] for row in rows}
    missing = 0
    for stream in streams:
        for number in sorted(set(numbers[stream])):
            if stream in last and number > last[stream] + 1:
                hole = number - last[stream] - 1
                STREAM_GAP_RECORDS_TOTAL.labels(topic=stream[1]).inc(hole)
                missing += hole
            last[stream] = max(last.get(stream, number), number)
    return missing
