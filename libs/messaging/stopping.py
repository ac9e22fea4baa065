"""Stopping Kafka's clients within a time, without leaving half of one behind.

A producer's stop waits for what it still holds. Cancelled there, it never closes its sender and its
connections: they stay for the life of the process. So a stop that takes longer goes on by itself.
"""

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

log = structlog.get_logger()

_still_stopping: set[asyncio.Task[None]] = set()


async def stop_within(client: AIOKafkaProducer | AIOKafkaConsumer, seconds: float) -> None:
    """Stop a client; what is not done in time is done later, and a failure is only told."""
    task = asyncio.create_task(client.stop())
    _still_stopping.add(task)
    task.add_done_callback(_ended)
    _, late = await asyncio.wait({task}, timeout=seconds)
    if late:
        log.warning("kafka_client_stops_slowly", client=type(client).__name__)


def _ended(task: asyncio.Task[None]) -> None:
    _still_stopping.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.info("kafka_client_not_stopped", error=type(task.exception()).__name__)
