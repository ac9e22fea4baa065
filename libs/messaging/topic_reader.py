"""Reading topics by offsets beside the consumer: no group, no commits, nothing skipped."""

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.messaging.partitioning import partition_of
from libs.messaging.records import Record
from libs.messaging.stopping import stop_within

READ_SECONDS = 30.0
STOP_SECONDS = 2.0
RECORDS_MAX = 20_000
BYTES_MAX = 8 * 1024 * 1024
_POLLED_RECORDS = 2_000


class RecordsGoneError(RuntimeError):
    """A topic no longer holds the records that were asked for."""


@dataclass(frozen=True)
class Bounds:
    """Where a partition begins and ends: the first record there is, and the next one to come."""

    begin: int
    end: int


class TopicReader:
    """Reads topics by offsets; a client of its own for each stretch."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def partition_of(self, tenant_id: UUID) -> int:
        """Where a tenant's records lie on every topic."""
        return partition_of(tenant_id)

    async def bounds(
        self, topics: Iterable[str], partitions: Iterable[int]
    ) -> dict[TopicPartition, Bounds]:
        """Where each of these partitions of each topic begins and ends.

        Raises:
            KafkaError, TimeoutError, OSError: Kafka does not answer.
        """
        client = self._client()
        places = [TopicPartition(*place) for place in itertools.product(topics, partitions)]
        async with asyncio.timeout(READ_SECONDS):
            try:
                await client.start()
                begins = await client.beginning_offsets(places)
                ends = await client.end_offsets(places)
            finally:
                await stop_within(client, STOP_SECONDS)
        return {place: Bounds(begins[place], ends[place]) for place in places}

    async def read(
        self, topic: str, partition: int, first: int, end: int, *, whole: bool = False
    ) -> list[Record]:
        """The records from `first` to before `end`, in order: 20,000 or 8 MiB, or a little more.

        Args:
            whole: all of them, however many.

        Raises:
            RecordsGoneError: the topic begins after `first`.
            KafkaError, TimeoutError, OSError: Kafka does not answer.
        """
        place = TopicPartition(topic, partition)
        found: list[Record] = []
        size, position = 0, first
        client = self._client()
        async with asyncio.timeout(READ_SECONDS):
            try:
                await client.start()
                client.assign([place])
                client.seek(place, first)
                while position < end and (whole or (len(found) < RECORDS_MAX and size < BYTES_MAX)):
                    polled = await client.getmany(
                        place, timeout_ms=500, max_records=_POLLED_RECORDS
                    )
                    records = polled.get(place, [])
                    if not found and records and records[0].offset > first:
                        raise RecordsGoneError(
                            f"{topic}[{partition}] begins at {records[0].offset}, not at {first}"
                        )
                    found += [record for record in records if record.offset < end]
                    size += sum(len(record.value or b"") for record in records)
                    position = await client.position(place)
            finally:
                await stop_within(client, STOP_SECONDS)
        return found

    def _client(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
