"""Whether a program is ready, asked of the program itself."""

import asyncio
from typing import assert_never

from deploy.local import kafka, postgres
from deploy.local.ports import HOST, takes_connections
from deploy.local.program import (
    DoneReady,
    HttpReady,
    KafkaReady,
    PostgresReady,
    Ready,
    TcpReady,
)

HTTP_TIMEOUT_SECONDS = 5


async def is_ready(ready: Ready, pid: int) -> bool:
    """Whether the program with this pid can do its work now."""
    match ready:
        case HttpReady():
            return await http_status(ready.port, ready.ready_path) == 200
        case TcpReady():
            return await takes_connections(ready.port)
        case PostgresReady():
            return postgres.is_ready(ready.data, pid)
        case KafkaReady():
            return await kafka.is_ready(ready.port)
        case DoneReady():
            return False
        case _:
            assert_never(ready)


async def is_loaded(ready: Ready, pid: int) -> bool:
    """Whether the costly part of starting is over: a service answers at all, ready or not."""
    if isinstance(ready, HttpReady):
        return await http_status(ready.port, ready.alive_path) == 200
    return await is_ready(ready, pid)


async def http_status(port: int, path: str) -> int | None:
    """The status code of a GET, or None when there is no proper answer within 5 s."""
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(HTTP_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(request.encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None
    words = status_line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
