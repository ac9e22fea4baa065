"""Where a consumer stands in the partitions it was given, and which of them it does not trust.

No database here: fences are read and moved by the consumer, and what it learns is kept in `Places`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from libs.messaging.fence import Breach, Fence
from libs.messaging.records import Record
from libs.observability.metrics import FENCE_REFUSED

log = structlog.get_logger()

HINT_SECONDS = 5.0


def place_of(record: Record) -> TopicPartition:
    """The partition a record came from."""
    return TopicPartition(record.topic, record.partition)


@dataclass(frozen=True, slots=True)
class Span:
    """What a batch holds of one partition."""

    first: Record
    last: Record


def spans_of(records: Iterable[Record]) -> dict[TopicPartition, Span]:
    """By partition, the first and the last record of a batch."""
    ends: dict[tuple[str, int], list[Record]] = {}
    topic, partition, there = "", -1, None
    for record in records:
        if there is None or record.partition != partition or record.topic != topic:
            topic, partition = record.topic, record.partition
            there = ends.setdefault((topic, partition), [record, record])
        there[1] = record
    return {TopicPartition(*place): Span(*there) for place, there in ends.items()}


class Places:
    """The partitions of one group member.

    Attributes:
        client: the Kafka client that was given them; None before the first assignment.
        assigned: what was given; None before the first assignment.
        unplaced: given, and held still until their fences are read and checked.
        positions: the next offset to apply, of the partitions that flow.
        refused: partitions whose fence does not fit their log, with the reason.
        rewinds: how often the client was put back: what it had handed out before is void.
    """

    def __init__(self, consumer: str, compacted: frozenset[str]) -> None:
        self._consumer = consumer
        self._compacted = compacted
        self.client: Any = None
        self.assigned: set[TopicPartition] | None = None
        self.unplaced: set[TopicPartition] = set()
        self.positions: dict[TopicPartition, int] = {}
        self.refused: dict[TopicPartition, str] = {}
        self.rewinds = 0
        self._holes: dict[TopicPartition, tuple[int, int]] = {}
        self._hinted: dict[TopicPartition, int] = {}

    def assign(self, client: Any, assigned: Iterable[TopicPartition]) -> None:
        """Take new partitions, and hold them still."""
        self.client = client
        self.assigned = set(assigned)
        self.positions.clear()
        self.refused.clear()
        self.unplaced = set(assigned)
        client.pause(*assigned)

    def revoke(self, revoked: set[TopicPartition]) -> None:
        """These are somebody else's now; what is in hand for them is dropped."""
        for place in revoked:
            self.positions.pop(place, None)
            self.refused.pop(place, None)
        self.unplaced -= revoked

    def flowing(self, records: Sequence[Record]) -> list[Record]:
        """The records of partitions that flow here."""
        if spans_of(records).keys() <= self.positions.keys():
            return list(records)
        return [record for record in records if place_of(record) in self.positions]

    def doubt(self, records: Sequence[Record]) -> bool:
        """Hold still what does not begin at our position; whether there was any.

        Below it: the log was re-created. Above it: the client went on without a batch, or to where
        retention has cut the log, or the fence was moved back while the batch was in hand. Only a
        hole that is still there after the check is the log's own.
        """
        doubted = False
        for place, span in spans_of(records).items():
            offset = span.first.offset
            position = self.positions.get(place, offset)
            if offset == position or (offset > position and self._is_hole(place, position, offset)):
                continue
            doubted = True
            log.warning(
                "log_went_back" if offset < position else "log_does_not_follow",
                consumer=self._consumer,
                topic=place.topic,
                partition=place.partition,
                offset=offset,
                position=position,
            )
            self.positions.pop(place)
            self.unplaced.add(place)
            if self.client is not None:
                self.client.pause(place)
        return doubted

    def _is_hole(self, place: TopicPartition, position: int, offset: int) -> bool:
        """Whether the log itself has nothing between: compacted, or seen again after a check."""
        seen_before = self._holes.get(place) == (position, offset)
        self._holes[place] = (position, offset)
        return seen_before or place.topic in self._compacted

    def settle(
        self,
        places: set[TopicPartition],
        fences: Mapping[TopicPartition, Fence],
        breaches: Sequence[Breach],
    ) -> None:
        """Let partitions flow from their fences; one whose fence does not fit its log stays still."""
        self.rewinds += 1
        reasons = {breach.fence.place: breach.reason for breach in breaches}
        for place in places:
            self.unplaced.discard(place)
            if place in reasons:
                self.refuse(place, reasons[place])
                continue
            FENCE_REFUSED.labels(topic=place.topic, partition=str(place.partition)).set(0)
            self.positions[place] = fences[place].next_offset
            # Whoever had it before may have ended before it told Kafka how far it was.
            self._hinted.pop(place, None)
            self.client.seek(place, fences[place].next_offset)
            self.client.resume(place)

    def refuse(self, place: TopicPartition, reason: str) -> None:
        """Stand still in a partition, and say so until somebody has looked."""
        position = self.positions.pop(place, None)
        self.refused[place] = reason
        self.client.pause(place)
        FENCE_REFUSED.labels(topic=place.topic, partition=str(place.partition)).set(1)
        log.critical(
            "fence_refused",
            consumer=self._consumer,
            topic=place.topic,
            partition=place.partition,
            reason=reason,
            position=position,
        )

    def blocked(self) -> str | None:
        """Why not all that was given can be read; None where nothing is in the way."""
        if self.assigned is None:
            return "no partitions assigned yet"
        for place, reason in self.refused.items():
            return f"{place.topic}[{place.partition}] refused: {reason}"
        return None

    def go_on_behind(self, records: Iterable[Record]) -> None:
        """These were applied. A partition that was taken away meanwhile is not ours again by this."""
        for place, span in spans_of(records).items():
            if place in self.positions:
                self.positions[place] = span.last.offset + 1

    def go_back(self, fence: Fence) -> None:
        """Somebody moved a fence back: follow it."""
        log.warning("fence_moved_back", consumer=self._consumer, detail=str(fence))
        if fence.place in self.positions:
            self.rewinds += 1
            self.positions[fence.place] = fence.next_offset
            if self.client is not None:
                self.client.seek(fence.place, fence.next_offset)

    def rewind(self, records: Iterable[Record]) -> None:
        """Read these partitions again from where we stand; what was handed out is void."""
        self.rewinds += 1
        self.put_back(records)

    def put_back(self, records: Iterable[Record]) -> None:
        """Put the client back to where we stand."""
        for place in spans_of(records):
            if place in self.positions and self.client is not None:
                self.client.seek(place, self.positions[place])

    async def hint(self, places: set[TopicPartition]) -> None:
        """Tell Kafka where we stand; nothing depends on it but lag tools."""
        offsets = {p: self.positions[p] for p in places if p in self.positions}
        if self.client is None or not offsets:
            return
        self._hinted |= dict.fromkeys(offsets, -1)
        try:
            # A client whose group is lost waits for it without end, and nobody may wait for a hint.
            async with asyncio.timeout(HINT_SECONDS):
                await self.client.commit(offsets)
            self._hinted |= offsets
        except (KafkaError, ValueError, TimeoutError) as error:
            log.info("offset_hint_failed", consumer=self._consumer, error=type(error).__name__)

    def unhinted(self) -> set[TopicPartition]:
        """Partitions whose position Kafka has not been told; of one at its very beginning nothing is to be told."""
        return {p for p, at in self.positions.items() if self._hinted.get(p, 0) != at}

    def lag_records(
        self, ends: Mapping[TopicPartition, int], stood: Mapping[TopicPartition, int]
    ) -> dict[str, int]:
        """Lag by topic; a log that ends before our position was re-created: it is refused.

        Args:
            ends: the end offsets Kafka told.
            stood: our positions when it was asked. Its answer may be older than what was read
                while it was on its way.
        """
        lag: dict[str, int] = {}
        for place, end in ends.items():
            if place not in self.positions:
                continue
            if end < min(stood[place], self.positions[place]):
                self.refuse(place, f"the log ends at {end}, before {self.positions[place]}")
                continue
            lag[place.topic] = lag.get(place.topic, 0) + max(0, end - self.positions[place])
        return lag
