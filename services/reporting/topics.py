"""What stands on the topics and how far each consumer group is behind, asked of Kafka.

Kafka's committed offsets are hints that consumers give after their own commit in Postgres; they may
trail it by a second.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from libs.clock import utc_now
from libs.contracts.topics import TOPICS
from libs.directory.consume import DIRECTORY_TOPICS

log = structlog.get_logger()

CACHE_SECONDS = 2.0
ANSWER_SECONDS = 6.0
REQUEST_TIMEOUT_MS = 3_000
RETRY_BACKOFF_MS = 20


class KafkaAwayError(RuntimeError):
    """Kafka does not answer in time."""


@dataclass(frozen=True)
class GroupFigures:
    """A consumer group on one topic.

    Attributes:
        committed: the next offset to read by partition; None where nothing was ever committed.
        lag_records: end offsets less committed ones; what was never committed counts in full.
    """

    group: str
    committed: dict[int, int | None]
    lag_records: int
    partitions_behind: int


@dataclass(frozen=True)
class TopicFigures:
    """A topic: first and next offset by partition, and its groups."""

    topic: str
    begin_offsets: dict[int, int]
    end_offsets: dict[int, int]
    groups: list[GroupFigures]

    @property
    def records(self) -> int:
        """How many records the log holds; on a compacted topic at most that many."""
        return sum(end - self.begin_offsets[place] for place, end in self.end_offsets.items())


@dataclass(frozen=True)
class Figures:
    """All topics at one moment."""

    as_of: datetime
    topics: list[TopicFigures]


def expected_groups() -> dict[str, set[str]]:
    """The groups that should read each topic, as the record of topics says."""
    return {
        topic.name: {
            f"{service}.directory" if topic.name in DIRECTORY_TOPICS else service
            for service in topic.consumers
        }
        for topic in TOPICS
    }


class TopicWatch:
    """Asks Kafka, at most every two seconds however many ask."""

    def __init__(self, bootstrap: str) -> None:
        self._options = {"bootstrap_servers": bootstrap, "request_timeout_ms": REQUEST_TIMEOUT_MS}
        self._asking = asyncio.Lock()
        self._asked_at = -CACHE_SECONDS
        self._known: Figures | None = None

    async def figures(self) -> Figures:
        """The topics as they are, or were up to two seconds ago.

        Raises:
            KafkaAwayError: Kafka does not answer in time, or did not two seconds ago.
        """
        async with self._asking:
            if time.monotonic() - self._asked_at >= CACHE_SECONDS:
                self._known = await self._try_to_ask()
                self._asked_at = time.monotonic()
            if self._known is None:
                raise KafkaAwayError("Kafka does not answer")
            return self._known

    async def _try_to_ask(self) -> Figures | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("kafka_away", error=type(error).__name__)
            return None

    async def _ask(self) -> Figures:
        admin = AIOKafkaAdminClient(**self._options)
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            # It learns of one topic per retry.
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        try:
            await admin.start()
            await consumer.start()
            places = await _places(admin)
            begin = await consumer.beginning_offsets(places)
            end = await consumer.end_offsets(places)
            committed = await _committed(admin)
        finally:
            await consumer.stop()
            await admin.close()
        return Figures(utc_now(), _arrange(begin, end, committed))


async def _places(admin: AIOKafkaAdminClient) -> list[TopicPartition]:
    """Every partition of every topic but Kafka's own."""
    return [
        TopicPartition(topic["topic"], each["partition"])
        for topic in await admin.describe_topics()
        if not topic["topic"].startswith("__")
        for each in topic["partitions"]
    ]


async def _committed(admin: AIOKafkaAdminClient) -> dict[str, dict[TopicPartition, int]]:
    """What each group has committed; the groups that should be there always have a place."""
    groups = {name for name, *_ in await admin.list_consumer_groups()}
    for expected in expected_groups().values():
        groups |= expected
    found = {}
    for group in sorted(groups):
        offsets = await admin.list_consumer_group_offsets(group)
        found[group] = {place: each.offset for place, each in offsets.items()}
    return found


def _arrange(
    begin: dict[TopicPartition, int],
    end: dict[TopicPartition, int],
    committed: dict[str, dict[TopicPartition, int]],
) -> list[TopicFigures]:
    partitions: dict[str, list[int]] = defaultdict(list)
    for place in end:
        partitions[place.topic].append(place.partition)
    readers = expected_groups()
    for group, places in committed.items():
        for place in places:
            readers.setdefault(place.topic, set()).add(group)
    topics = []
    for topic, numbers in sorted(partitions.items()):
        of_topic = [TopicPartition(topic, number) for number in sorted(numbers)]
        topics.append(
            TopicFigures(
                topic=topic,
                begin_offsets={place.partition: begin[place] for place in of_topic},
                end_offsets={place.partition: end[place] for place in of_topic},
                groups=[
                    _group(group, of_topic, begin, end, committed.get(group, {}))
                    for group in sorted(readers.get(topic, ()))
                ],
            )
        )
    return topics


def _group(
    group: str,
    places: list[TopicPartition],
    begin: dict[TopicPartition, int],
    end: dict[TopicPartition, int],
    offsets: dict[TopicPartition, int],
) -> GroupFigures:
    committed: dict[int, int | None] = {}
    behind = []
    for place in places:
        # Kafka answers -1 for a partition of which the group has committed nothing.
        offset = offsets.get(place, -1)
        committed[place.partition] = offset if offset >= 0 else None
        behind.append(max(0, end[place] - max(begin[place], offset)))
    return GroupFigures(group, committed, sum(behind), sum(1 for each in behind if each))
