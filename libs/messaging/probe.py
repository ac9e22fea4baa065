"""Whether Kafka answers somebody who has just come."""

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from libs.messaging.stopping import stop_within

ANSWER_SECONDS = 5.0


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
