"""Topics on the log in memory, as a rebuild reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from aiokafka import TopicPartition

from libs.messaging.records import Record
from libs.messaging.topic_reader import Bounds, RecordsGoneError
from libs.testing.memory_log import MemoryLog


@dataclass
class MemoryTopicReader:
    """In place of Kafka's own client.

    Attributes:
        begins: by topic, what lies before this offset is gone.
        stretch: so many records at once.
    """

    log: MemoryLog
    begins: dict[str, int] = field(default_factory=dict)
    stretch: int = 3

    def partition_of(self, _: UUID) -> int:
        return 0

    async def bounds(
        self, topics: Sequence[str], partitions: Sequence[int]
    ) -> dict[TopicPartition, Bounds]:
        assert partitions == [0]
        return {
            TopicPartition(topic, 0): Bounds(self.begins.get(topic, 0), len(self.log.topics[topic]))
            for topic in topics
        }

    async def read(self, topic: str, partition: int, first: int, end: int) -> list[Record]:
        assert partition == 0
        if first < self.begins.get(topic, 0):
            raise RecordsGoneError(f"begins at {self.begins[topic]}")
        return self.log.topics[topic][first : min(end, first + self.stretch)]
