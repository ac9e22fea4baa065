"""The process: it starts, keeps its limits on real sockets, and stops when told."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import scratch_port

SERVICE = Path(__file__).parent / "trial_service.py"
PATIENCE_SECONDS = 60


@dataclass
class Running:
    process: asyncio.subprocess.Process
    port: int
    url: str

    async def logged(self, event: str) -> None:
        """Wait until the process has logged this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while event.encode() not in await self.process.stdout.readline():
                assert self.process.returncode is None

    async def stopped(self) -> tuple[int, list[dict[str, object]]]:
        """Its exit status and what it logged."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in out.splitlines()]


@asynccontextmanager
async def running(root: Path, *arguments: str) -> AsyncGenerator[Running, None]:
    """The trial service as a process of its own, ended when the block is left."""
    port = scratch_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(root),
        "SLUICE_TRIAL_PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVICE),
        *arguments,
        env=environment,
        cwd=root,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    service = Running(process, port, f"http://127.0.0.1:{port}")
    try:
        await answers(service)
        yield service
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(service: Running) -> None:
    """Wait until the service answers."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client,
    ):
        while service.process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                await client.get(f"{service.url}/healthz")
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the service ended before it answered")


async def test_a_stop_lets_open_requests_finish_and_is_a_success(pytestconfig: pytest.Config):
    async with (
        running(pytestconfig.rootpath) as service,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client,
    ):
        open_request = asyncio.create_task(client.get(f"{service.url}/api/v1/slow"))
        await service.logged("slow_answer_begun")
        service.process.send_signal(signal.SIGTERM)
        assert (await open_request).json() == {"done": True}
        status, events = await service.stopped()
        assert status == 0
        assert [event["event"] for event in events][-1] == "process_stopped"
        assert {event["service"] for event in events} == {"trial"}


async def test_a_lifespan_that_hangs_is_ended_in_time(pytestconfig: pytest.Config):
    async with running(pytestconfig.rootpath, "hang") as service:
        service.process.send_signal(signal.SIGTERM)
        status, events = await service.stopped()
        assert status == 1
        assert (events[-1]["event"], events[-1]["limit_seconds"]) == ("process_stop_overran", 3)


async def test_hostile_connections(pytestconfig: pytest.Config):
    async with running(pytestconfig.rootpath) as service:
        head = b"POST /api/v1/raw HTTP/1.1\r\nHost: x\r\n"
        slow, chunked, huge, broken = await asyncio.gather(
            exchange(service.port, head + b"Content-Length: 100\r\n\r\nabc"),
            exchange(
                service.port, head + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + b"x" * 65_535
            ),
            exchange(service.port, head + b"x: " + b"a" * 100_000 + b"\r\n\r\n"),
            exchange(service.port, b"\x16\x03\x01 not http\r\n\r\n"),
        )
        assert slow.startswith(b"HTTP/1.1 408")
        assert b'"code":"request_timeout"' in slow
        assert chunked.startswith(b"HTTP/1.1 413")
        assert huge.startswith(b"HTTP/1.1 431")
        assert broken.startswith(b"HTTP/1.1 400")
        assert b"server:" not in (slow + chunked).lower()
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            assert (await client.get(f"{service.url}/healthz")).status_code == 200


RAW = b"POST /api/v1/raw HTTP/1.1\r\nHost: x\r\n"
MALFORMED: tuple[tuple[bytes, int, str], ...] = (
    (b"\x16\x03\x01 not http\r\n\r\n", 400, "invalid_request"),
    (b"X /api/v1/raw HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
    (b"GET /api/v1/things HTTP/1.1\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things?\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things HTTP/2.0\r\nHost: x\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things HTTP/1.1\nHost: x\n\n", 400, "invalid_request"),
    (b"GET /api/v1/things HTTP/1.1\r\nHost : x\r\n\r\n", 400, "invalid_request"),
    (b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "invalid_request"),
    (RAW + b"Content-Length: +3\r\n\r\nabc", 400, "invalid_request"),
    (RAW + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "invalid_request"),
    (
        RAW + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request",
    ),
    (RAW + b"Transfer-Encoding: gzip\r\n\r\nabc", 400, "invalid_request"),
    (RAW + b"x: " + b"a" * 300_000, 431, "headers_too_large"),
    (RAW + b"x: 1\r\n" * 50_000, 431, "headers_too_large"),
    (b"\r\n" * 150_000, 431, "headers_too_large"),
    (
        RAW + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 300_000,
        431,
        "headers_too_large",
    ),
    (
        RAW + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: 1\r\n" * 50_000,
        431,
        "headers_too_large",
    ),
)


async def test_what_is_no_request_is_told_so(pytestconfig: pytest.Config):
    async with running(pytestconfig.rootpath) as service:
        for sent, status, code in MALFORMED:
            answer = await exchange(service.port, sent)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status), sent[:80]
            assert b"connection: close" in head, sent[:80]
            assert json.loads(body)["code"] == code, sent[:80]
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            assert (await client.get(f"{service.url}/healthz")).status_code == 200


async def test_one_connection_after_another_request(pytestconfig: pytest.Config):
    async with running(pytestconfig.rootpath) as service:
        large = b"POST /api/v1/large/raw HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
        # Bodies are not counted as heads, however many there are.
        several = (large + b"x" * 50_000) * 3 + RAW + b"Connection: close\r\n\r\n"
        answers = await exchange(service.port, several)
        assert answers.count(b"HTTP/1.1 200 OK") == 4
        assert answers.count(b'{"bytes":50000}') == 3
        # What has no length has no body: what follows is no request, but the first was one.
        stray = await exchange(service.port, RAW + b"\r\n" + b'{"id": 1}')
        assert stray.startswith(b"HTTP/1.1 200 OK")
        assert stray.count(b"HTTP/1.1") == 1
        assert stray.endswith(b'{"bytes":0}')
        old = await exchange(service.port, b"GET /api/v1/things HTTP/1.0\r\n\r\n")
        assert old.startswith(b"HTTP/1.1 200")


async def test_nothing_else_comes_of_a_connection(pytestconfig: pytest.Config):
    async with running(pytestconfig.rootpath) as service:
        upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
        answer = await exchange(service.port, RAW + upgrade + RAW + b"Content-Length: 0\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert answer.endswith(b'{"bytes":3}')
        trailer = (
            b"POST /api/v1/seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
        )
        seen = await exchange(service.port, trailer)
        assert seen.endswith(b'["connection","host","transfer-encoding"]')


async def test_an_answer_reaches_a_peer_that_is_still_sending(pytestconfig: pytest.Config):
    head = b"POST /api/v1/raw HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with running(pytestconfig.rootpath) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head)
        # The answer comes in the middle of the body; whoever reads it only after sending on finds it.
        for _ in range(100):
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "body_too_large"


async def exchange(port: int, data: bytes) -> bytes:
    """Send the bytes and read until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()


async def test_a_port_that_is_taken_ends_the_process(pytestconfig: pytest.Config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SERVICE),
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(pytestconfig.rootpath),
                "SLUICE_TRIAL_PORT": str(taken.getsockname()[1]),
            },
            cwd=pytestconfig.rootpath,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, _ = await process.communicate()
        assert process.returncode not in (0, None)
        assert b"address already in use" in out


async def test_without_its_port_the_process_says_what_to_set(pytestconfig: pytest.Config):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVICE),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(pytestconfig.rootpath)},
        cwd=pytestconfig.rootpath,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"set SLUICE_TRIAL_PORT" in errors
