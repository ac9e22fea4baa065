"""Stopping Kafka's clients within a time, without leaving half of one behind.

A producer's stop waits for what it still holds. Cancelled there, it never closes its sender and its
connections: they stay for the life of the process. So a stop that takes longer goes on by itself.

And an idempotent producer never gives a batch up: it goes on sending until the broker takes it, also
hours later and behind what another producer has sent since. Where that must not be, what it holds is
dropped first.
"""

import asyncio
import socket
import struct
from typing import Any, Never

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

log = structlog.get_logger()

_still_stopping: set[asyncio.Task[None]] = set()


async def stop_within(client: AIOKafkaProducer | AIOKafkaConsumer, seconds: float) -> None:
    """Stop a client; what is not done in time is done later, and a failure is only told."""
    task = asyncio.create_task(_stop(client))
    _still_stopping.add(task)
    task.add_done_callback(_ended)
    _, late = await asyncio.wait({task}, timeout=seconds)
    if late:
        log.warning("kafka_client_stops_slowly", client=type(client).__name__)


def drop_unsent(producer: AIOKafkaProducer) -> None:
    """From here on a producer sends nothing any more; it is still to be stopped.

    Only what has left this machine whole may still arrive. aiokafka (0.14) has no public way to do
    this, hence its private names; tests/libs/messaging/test_relay_order.py fails without them.
    """
    client = producer.client
    # It ends when what is on its way has failed, and takes nothing more out of the queues.
    producer._sender.sender_task.cancel()  # noqa: SLF001 - see above
    connections = list(client._conns.values())  # noqa: SLF001 - see above
    client._conns = _NoConnections()  # noqa: SLF001 - see above
    for connection in connections:
        _cut(connection)


class _NoConnections(dict[Any, Any]):
    """In place of a client's connections: one that is just being opened is closed and not used."""

    def __setitem__(self, node: Any, connection: Any) -> Never:
        _cut(connection)
        raise KafkaConnectionError(f"given up before it reached {node}")


def _cut(connection: Any) -> None:
    """Close a connection and throw away what waits in it: without this, closing sends it first."""
    writer = connection._writer  # noqa: SLF001 - nothing public resets a connection
    if writer is not None:
        if not writer.is_closing():
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()
    connection.close()


async def _stop(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    if isinstance(client, AIOKafkaProducer):
        sender = client._sender.sender_task  # noqa: SLF001 - see above
        if sender is not None and sender.cancelling():
            await asyncio.wait({sender})
            # What was on its way lies in its queue again, and nobody is to wait until it is sent.
            client._message_accumulator._batches.clear()  # noqa: SLF001 - see above
    await client.stop()


def _ended(task: asyncio.Task[None]) -> None:
    _still_stopping.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.info("kafka_client_not_stopped", error=type(task.exception()).__name__)
