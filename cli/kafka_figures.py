"""What stands on the topics and who still has to read it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from libs.contracts.topics import TOPICS, Topic

REQUEST_TIMEOUT_MS = 10_000
RETRY_BACKOFF_MS = 10
# Read by a group of its own, so that no backlog delays a revocation (design: two consumers).
DIRECTORY_TOPICS = {"tenants.directory", "tenants.secrets"}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a consumer group is behind on one topic.

    Attributes:
        records: end offsets minus committed offsets; what was never committed counts from the
            topic's beginning.
        partitions_behind: on how many partitions.
    """

    group: str
    topic: str
    records: int
    partitions_behind: int


@dataclass(frozen=True, slots=True)
class TopicFigures:
    """One topic as it stands on the broker; `record` is None when TOPICS does not name it."""

    name: str
    partitions: int
    records: int
    record: Topic | None


class KafkaFigures:
    """Reads offsets from one Kafka; an asynchronous context manager.

    Raises:
        KafkaError: the broker does not answer.
    """

    def __init__(self, bootstrap: str) -> None:
        options = {"bootstrap_servers": bootstrap, "request_timeout_ms": REQUEST_TIMEOUT_MS}
        self._admin = AIOKafkaAdminClient(**options)
        # The consumer learns of one topic per retry: with the usual pause a second for ten topics.
        self._consumer = AIOKafkaConsumer(
            **options, enable_auto_commit=False, retry_backoff_ms=RETRY_BACKOFF_MS
        )

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._consumer.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def topics(self) -> list[TopicFigures]:
        """Every topic but Kafka's own, by name."""
        partitions = await self._partitions()
        flat = [place for places in partitions.values() for place in places]
        begin = await self._consumer.beginning_offsets(flat)
        end = await self._consumer.end_offsets(flat)
        known = {topic.name: topic for topic in TOPICS}
        return [
            TopicFigures(
                name=name,
                partitions=len(places),
                records=sum(end[place] - begin[place] for place in places),
                record=known.get(name),
            )
            for name, places in sorted(partitions.items())
        ]

    async def lags(self, services: Collection[str]) -> list[Lag]:
        """The lag of every group on every topic it reads.

        Args:
            services: those that run; each is expected to read what TOPICS says.
        """
        partitions = await self._partitions()
        flat = [place for places in partitions.values() for place in places]
        begin = await self._consumer.beginning_offsets(flat)
        end = await self._consumer.end_offsets(flat)
        expected = {
            (_group_of(service, topic.name), topic.name)
            for topic in TOPICS
            for service in topic.consumers
            if service in services and topic.name in partitions
        }
        groups = {name for name, *_ in await self._admin.list_consumer_groups()}
        committed: dict[str, dict[TopicPartition, int]] = {}
        for group in sorted(groups | {group for group, _ in expected}):
            offsets = await self._admin.list_consumer_group_offsets(group)
            committed[group] = {place: each.offset for place, each in offsets.items()}
        read = {(group, place.topic) for group, places in committed.items() for place in places}
        lags = []
        for group, topic in sorted(expected | read):
            behind = [
                max(0, end[place] - max(begin[place], committed[group].get(place, -1)))
                for place in partitions.get(topic, [])
            ]
            lags.append(Lag(group, topic, sum(behind), sum(1 for each in behind if each)))
        return lags

    async def _partitions(self) -> dict[str, list[TopicPartition]]:
        described = await self._admin.describe_topics()
        return {
            topic["topic"]: [
                TopicPartition(topic["topic"], each["partition"]) for each in topic["partitions"]
            ]
            for topic in described
            if not topic["topic"].startswith("__")
        }


def _group_of(service: str, topic: str) -> str:
    return f"{service}.directory" if topic in DIRECTORY_TOPICS else service
