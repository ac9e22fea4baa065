"""Whether Kafka answers a client, and somebody who has just come."""

import asyncio
from collections.abc import Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from libs.messaging.stopping import stop_within

ANSWER_SECONDS = 5.0
ENDS_SECONDS = 10.0


class StuckError(RuntimeError):
    """There is lag and no progress, or Kafka is lost: the process ends and is started again."""


async def ends_heard(
    client: Any, places: Collection[TopicPartition], bootstrap: str, *, silent: bool
) -> dict[TopicPartition, int]:
    """Where the logs of these partitions end, as a client hears it.

    Args:
        silent: the client has heard nothing for long.

    Raises:
        KafkaError, TimeoutError: it hears nothing now.
        StuckError: it hears nothing of a Kafka that answers others.
    """
    try:
        return await _ends(client, places)
    except (KafkaError, TimeoutError):
        if not silent or not await answers(bootstrap):
            raise
    try:
        # Kafka may have come back between the client's question and the new one's.
        return await _ends(client, places)
    except (KafkaError, TimeoutError):
        raise StuckError("a client hears nothing of a Kafka that answers") from None


async def _ends(client: Any, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    if not places:
        return {}
    async with asyncio.timeout(ENDS_SECONDS):
        found: dict[TopicPartition, int] = await client.end_offsets(places)
    return found


async def answers(bootstrap: str) -> bool:
    """Whether a new client finds the brokers within a few seconds."""
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await client.start()
    except (KafkaError, TimeoutError):
        return False
    finally:
        await stop_within(client, ANSWER_SECONDS)
    return True
