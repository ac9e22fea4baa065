"""A connection that Kafka reset fails as one: its client must find the broker again."""

import asyncio
import socket
import struct

import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from libs.messaging.kafka_connection import mend_resets


async def send_until_closed(listener: socket.socket) -> list[BaseException]:
    """What a client gets that sends at every turn of the loop after its connection was reset."""
    connection = AIOKafkaConnection(*listener.getsockname(), request_timeout_ms=5_000)

    async def know_versions() -> None:
        connection._versions = {MetadataRequest.API_KEY: (0, 5)}

    connection._do_version_lookup = know_versions
    await connection.connect()
    peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    sent = []
    while connection.connected():
        await asyncio.sleep(0)
        sent.append(asyncio.ensure_future(send(connection)))
    return [error for error in await asyncio.gather(*sent) if error is not None]


async def send(connection: AIOKafkaConnection) -> BaseException | None:
    try:
        await connection.send(MetadataRequest([]))
    except (KafkaConnectionError, RuntimeError) as error:
        return error
    return None


def test_a_send_after_a_reset_is_a_broken_connection() -> None:
    mend_resets()
    mend_resets()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        errors = uvloop.run(send_until_closed(listener))
    assert errors
    assert {type(error) for error in errors} == {KafkaConnectionError}
    assert any(isinstance(error.__cause__, RuntimeError) for error in errors)
