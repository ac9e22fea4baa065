"""Reading stretches of `usage.events` beside the consumer."""

from libs.contracts.topics import PARTITIONS
from libs.messaging.records import Record
from libs.messaging.topic_reader import Bounds, TopicReader
from services.metering.usage_log import TOPIC


class UsageReader:
    """Reads `usage.events` by offsets; what it raises is what `TopicReader` does."""

    def __init__(self, bootstrap: str) -> None:
        self._topics = TopicReader(bootstrap)

    async def bounds(self) -> dict[int, Bounds]:
        """Where every partition begins and ends."""
        found = await self._topics.bounds([TOPIC], range(PARTITIONS))
        return {place.partition: bounds for place, bounds in found.items()}

    async def read(
        self, partition: int, first: int, end: int, *, whole: bool = False
    ) -> list[Record]:
        """The records from `first` to before `end`, in order.

        Args:
            whole: all of them, however many, in place of one stretch.
        """
        return await self._topics.read(TOPIC, partition, first, end, whole=whole)
