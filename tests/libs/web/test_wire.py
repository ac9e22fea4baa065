"""Requests behind each other on one connection: each is answered in its turn, or none after the last."""

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from libs.web.wire import PIPELINED_MAX, _Lingering
from tests.libs.web.test_process import PATIENCE_SECONDS, RAW, exchange, running

BRIEF = b"GET /api/v1/brief HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def test_of_many_wishes_for_another_protocol_one_is_answered(
    pytestconfig: pytest.Config,
) -> None:
    wish = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with running(pytestconfig.rootpath) as service:
        answer = await exchange(service.port, wish * 4_000)
        old = await exchange(service.port, wish.replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0"))
        service.process.terminate()
        _, events = await service.stopped()
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    assert old.startswith(b"HTTP/1.1 200 OK")
    assert [event for event in events if event["level"] in ("error", "critical")] == []


async def test_so_many_requests_wait_for_their_turn(pytestconfig: pytest.Config) -> None:
    async with running(pytestconfig.rootpath) as service:
        answer = await exchange(service.port, BRIEF * 20_000)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") == PIPELINED_MAX + 1
    assert answer.count(b"connection: close") == 1


async def test_a_refusal_overtakes_no_answer(pytestconfig: pytest.Config) -> None:
    broken = RAW + CHUNKED + b"no length\r\n"
    async with running(pytestconfig.rootpath) as service:
        for earlier in (1, 3):
            answer = await exchange(service.port, BRIEF * earlier + broken)
            assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") == earlier
            assert answer.count(b"connection: close") == 1
            assert answer.endswith(b'{"done":true}')


async def test_in_the_middle_of_an_answer_nothing_else_is_said(pytestconfig: pytest.Config) -> None:
    async with running(pytestconfig.rootpath) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"POST /api/v1/begun HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"1\r\na\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            begun = await reader.readuntil(b"begun\r\n")
            writer.write(b"no length\r\n")
            rest = await reader.read()
        writer.close()
    assert begun.startswith(b"HTTP/1.1 200 OK")
    assert rest == b""


async def test_a_head_that_does_not_come_is_not_waited_for(pytestconfig: pytest.Config) -> None:
    head = b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\n"
    async with running(pytestconfig.rootpath, "hasty") as service:
        nothing, half, second = await asyncio.gather(
            exchange(service.port, b""),
            exchange(service.port, head),
            exchange(service.port, head + b"\r\n" + head),
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head + b"\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.readuntil(b"}")
            writer.write(b"\r\n")
            blank = await reader.read()
        writer.close()
    assert nothing == b""
    assert half.startswith(b"HTTP/1.1 408 ")
    assert second.startswith(b"HTTP/1.1 200 OK")
    assert second.count(b"HTTP/1.1 408 ") == 1
    assert blank.count(b"HTTP/1.1 408 ") == 1


class Transport:
    """What goes out, each time as one."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.said.append(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def connection(transport: Transport) -> _Lingering:
    """A connection on which nobody is sending."""
    here = SimpleNamespace(loop=asyncio.get_running_loop(), is_being_sent_to=lambda: False)
    return _Lingering(transport, here)  # type: ignore[arg-type]


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_a_head_goes_with_what_follows_it() -> None:
    transport = Transport()
    said = connection(transport)
    for part in (HEAD, b"HTTP/ is how this body begins", b"more", HEAD, b""):
        said.write(part)
    await asyncio.sleep(0)
    assert transport.said == [HEAD + b"HTTP/ is how this body begins", b"more", HEAD]


async def test_a_head_waits_for_nothing_that_comes_later() -> None:
    transport = Transport()
    said = connection(transport)
    said.write(HEAD)
    assert transport.said == []
    await asyncio.sleep(0)
    assert transport.said == [HEAD]
    said.write(b"late")
    assert transport.said == [HEAD, b"late"]


async def test_a_head_goes_before_the_connection_is_closed_and_never_after() -> None:
    transport, gone = Transport(), Transport()
    last = connection(transport)
    last.write(HEAD)
    last.close()
    assert (transport.said, transport.closed) == ([HEAD], True)
    late = connection(gone)
    late.write(HEAD)
    gone.close()
    await asyncio.sleep(0)
    assert gone.said == []
