"""`usage.events` on the log in memory, as the archiver and the rebuild read it."""

from dataclasses import dataclass, field

from libs.messaging.records import Record
from libs.messaging.topic_reader import Bounds, RecordsGoneError
from libs.testing.memory_log import MemoryLog
from services.metering.usage_log import TOPIC


@dataclass
class MemoryUsageReader:
    """In place of Kafka's own client.

    Attributes:
        begin: what lies before this offset was deleted by the topic's retention.
        stretch: so many records at once.
        reads: what was asked for: first offset and end.
    """

    log: MemoryLog
    begin: int = 0
    stretch: int = 1_000
    reads: list[tuple[int, int]] = field(default_factory=list)

    async def bounds(self) -> dict[int, Bounds]:
        return {0: Bounds(self.begin, len(self.log.topics[TOPIC]))}

    async def read(
        self, partition: int, first: int, end: int, *, whole: bool = False
    ) -> list[Record]:
        assert partition == 0
        if first < self.begin:
            raise RecordsGoneError(f"begins at {self.begin}")
        self.reads.append((first, end))
        last = end if whole else min(end, first + self.stretch)
        return self.log.topics[TOPIC][first:last]
