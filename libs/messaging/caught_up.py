"""Waiting until a service has read what its topics held when its process began.

After a restore a database knows less than the topics: what it had said itself may stand there unread.
A job that told the same anew would contradict it. So such a job waits until everything is read that
was there when the process began; from then on a flag is all that it asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.contracts.topics import PARTITIONS
from libs.db.pool import Database
from libs.messaging.stopping import stop_within

log = structlog.get_logger()

ASK_SECONDS = 10.0
STOP_SECONDS = 2.0

Ends = Mapping[TopicPartition, int]
Job = Callable[[], Awaitable[None]]


class CaughtUp:
    """Compares where topics ended at first with where the fences of a service are."""

    def __init__(self, database: Database, ends: Callable[[], Awaitable[Ends]]) -> None:
        """Set it up for one process.

        Args:
            ends: tells where each partition ends, by the offset of the next record to come.
        """
        self._database = database
        self._ask = ends
        self._ends: Ends | None = None
        self._reached = False

    async def reached(self) -> bool:
        """Whether all is read that was there when this was asked first.

        Raises:
            KafkaError, TimeoutError, OSError: Kafka does not answer, and was never asked before.
        """
        if self._reached:
            return True
        first = self._ends is None
        if self._ends is None:
            self._ends = await self._ask()
        behind = await self._behind(self._ends)
        self._reached = behind == 0
        if first or self._reached:
            log.info("caught_up" if self._reached else "catching_up", partitions_behind=behind)
        return self._reached

    def first(self, job: Job) -> Job:
        """The job, which does nothing until all of that is read."""

        async def run_once() -> None:
            if await self.reached():
                await job()

        return run_once

    async def _behind(self, ends: Ends) -> int:
        """How many partitions have a record left that is not read."""
        filled = sorted(place for place, end in ends.items() if end)
        async with self._database.transaction() as tx:
            found: int = await tx.fetchval(
                """
                select count(*) from unnest($2::text[], $3::int[], $4::bigint[]) as u(t, p, ending)
                left join fence f on f.consumer = $1 and f.topic = u.t and f.partition = u.p
                where coalesce(f.next_offset, 0) < u.ending
                """,
                self._database.service,
                [place.topic for place in filled],
                [place.partition for place in filled],
                [ends[place] for place in filled],
            )
        return found


def ends_in_kafka(bootstrap: str, topics: Sequence[str]) -> Callable[[], Awaitable[Ends]]:
    """What asks Kafka where all partitions of these topics end."""

    async def ends() -> Ends:
        client = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False
        )
        places = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        async with asyncio.timeout(ASK_SECONDS):
            try:
                await client.start()
                found: Ends = await client.end_offsets(places)
            finally:
                await stop_within(client, STOP_SECONDS)
        return found

    return ends
