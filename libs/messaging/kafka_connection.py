"""A connection to Kafka that was reset says so in a way that its client understands."""

from collections.abc import Awaitable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def mend_resets() -> None:
    """Let a send on a connection that has just been reset fail as a broken connection.

    A transport of uvloop refuses it with a RuntimeError until the reader has noticed, two turns of
    the loop later; one of asyncio says nothing. aiokafka 0.14 expects only OSError there: the
    RuntimeError ends the task that keeps its metadata, and the client waits for brokers for ever.
    """
    send = AIOKafkaConnection.send
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    def send_or_break(
        connection: AIOKafkaConnection, request: Any, expect_response: bool = True
    ) -> Awaitable[Any]:
        try:
            answer: Awaitable[Any] = send(connection, request, expect_response=expect_response)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(
                f"Connection at {connection.host}:{connection.port} was reset"
            ) from error
        return answer

    AIOKafkaConnection.send = send_or_break
