"""The fence: where a consumer stands in each partition, kept in Postgres with the effects.

The digest of the last record tells a re-created topic from the one that was read: offsets alone
would let a new topic's records be skipped.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.db.pool import Tx
from libs.messaging.records import Record

READ_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Fence:
    """A consumer's place in one partition."""

    topic: str
    partition: int
    next_offset: int
    last_record_digest: bytes | None

    @property
    def place(self) -> TopicPartition:
        """The partition as Kafka's client names it."""
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True)
class Breach:
    """Why a partition must not be read on: reading would skip or repeat records unseen."""

    fence: Fence
    reason: str


class FenceMovedError(RuntimeError):
    """Somebody moved the fence back (replay, restore): the batch at hand is void."""

    def __init__(self, fence: Fence) -> None:
        super().__init__(f"{fence.topic}[{fence.partition}] moved back to {fence.next_offset}")
        self.fence = fence


async def load_fences(
    tx: Tx, consumer: str, places: Iterable[TopicPartition], *, lock: bool = False
) -> dict[TopicPartition, Fence]:
    """The fences that exist for these partitions; locked in sorted order when asked."""
    ordered = sorted(places)
    rows = await tx.fetch(
        f"""
        select f.topic, f.partition, f.next_offset, f.last_record_digest from fence f
        join unnest($2::text[], $3::int[]) as u(topic, partition) using (topic, partition)
        where f.consumer = $1 order by f.topic, f.partition {"for update of f" if lock else ""}
        """,  # noqa: S608
        consumer,
        [place.topic for place in ordered],
        [place.partition for place in ordered],
    )
    fences = [
        Fence(r["topic"], r["partition"], r["next_offset"], r["last_record_digest"]) for r in rows
    ]
    return {fence.place: fence for fence in fences}


async def create_fences(tx: Tx, consumer: str, starts: dict[TopicPartition, int]) -> None:
    """Write fences for partitions assigned for the first time, even where nothing was read."""
    ordered = sorted(starts)
    await tx.execute(
        """
        insert into fence (consumer, topic, partition, next_offset)
        select $1, t, p, n from unnest($2::text[], $3::int[], $4::bigint[]) as u(t, p, n)
        on conflict do nothing
        """,
        consumer,
        [place.topic for place in ordered],
        [place.partition for place in ordered],
        [starts[place] for place in ordered],
    )


async def move_fences(tx: Tx, consumer: str, last_records: Sequence[Record]) -> None:
    """Set each partition's fence behind its last record."""
    await tx.execute(
        """
        update fence f set next_offset = u.next_offset, last_record_digest = u.digest,
                           moved_at = now()
        from unnest($2::text[], $3::int[], $4::bigint[], $5::bytea[])
            as u(topic, partition, next_offset, digest)
        where f.consumer = $1 and f.topic = u.topic and f.partition = u.partition
        """,
        consumer,
        [record.topic for record in last_records],
        [record.partition for record in last_records],
        [record.offset + 1 for record in last_records],
        [record.digest for record in last_records],
    )


async def find_breaches(
    bootstrap: str, fences: Sequence[Fence], *, compacted: frozenset[str]
) -> tuple[list[Breach], dict[TopicPartition, int]]:
    """Compare fences with the log; the breaches, and where each partition's log begins.

    A breach: the log ends before the fence, begins after it, or holds another record just before
    it. On a compacted topic that record may be gone; then the offsets alone are compared.

    Raises:
        TimeoutError, KafkaError: the log cannot be read now; try again.
    """
    probe = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        request_timeout_ms=10_000,
    )
    await probe.start()
    try:
        places = [fence.place for fence in fences]
        begins: dict[TopicPartition, int] = await probe.beginning_offsets(places)
        ends: dict[TopicPartition, int] = await probe.end_offsets(places)
        breaches = []
        readable = []
        for fence in fences:
            if fence.next_offset > ends[fence.place]:
                breaches.append(Breach(fence, f"the log ends at {ends[fence.place]}"))
            elif fence.next_offset < begins[fence.place] and fence.topic not in compacted:
                breaches.append(Breach(fence, f"the log begins at {begins[fence.place]}"))
            elif fence.last_record_digest is not None and (
                begins[fence.place] <= fence.next_offset - 1
            ):
                readable.append(fence)
        if readable:
            # Once only: the client may miss its own stop while it changes an assignment.
            probe.assign([fence.place for fence in readable])
        for fence in readable:
            probe.seek(fence.place, fence.next_offset - 1)
        for fence in readable:
            if not await _still_there(probe, fence, may_be_gone=fence.topic in compacted):
                breaches.append(Breach(fence, "another record lies just before it"))
        return breaches, begins
    finally:
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            await probe.stop()


async def _still_there(probe: AIOKafkaConsumer, fence: Fence, *, may_be_gone: bool) -> bool:
    """Whether the record just before the fence is the one this consumer took last."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_SECONDS):
            record: Record = await probe.getone(fence.place)
    except TimeoutError:
        if may_be_gone:
            return True
        raise
    if record.offset != fence.next_offset - 1:
        return may_be_gone
    return record.digest == fence.last_record_digest
