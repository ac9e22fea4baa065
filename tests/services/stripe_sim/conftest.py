"""The sandbox as a subprocess, and a receiver of its webhooks that verifies them with the SDK."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import stripe

from deploy.local.ports import scratch_port

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk_test_platform_sandbox"
SECRET = "whsec_platform_sandbox"
VERSION = "2026-10-28.endive"
PATIENCE_SECONDS = 60

stripe.enable_telemetry = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the SDK upload its form as httpx 0.28 deprecates, or every POST would fail."""
    allowed = "ignore:Use 'content=<...>':DeprecationWarning"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(allowed))


_open: list[stripe.HTTPXClient] = []


def transport() -> stripe.HTTPXClient:
    """The one HTTP client of the run, closed at its end."""
    if not _open:
        _open.append(stripe.HTTPXClient(timeout=60))
    return _open[0]


@pytest_asyncio.fixture(scope="session", autouse=True)
async def close_transport() -> AsyncGenerator[None]:
    yield
    while _open:
        await _open.pop().close_async()


@dataclass
class Receiver:
    """Keeps what it is sent, and answers with `status`; a wrong signature is an error for good."""

    port: int = field(default_factory=scratch_port)
    status: int = 200
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    secret: str = SECRET
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = dict(
                    line.lower().split(": ", 1) if ": " in line else (line, "")
                    for line in head.split("\r\n")[1:]
                )
                body = await reader.readexactly(int(lines["content-length"]))
                raw = next(line for line in head.split("\r\n") if "tripe-" in line and "t=" in line)
                self._take(body, raw.split(": ", 1)[1])
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % self.status)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    def _take(self, body: bytes, header: str) -> None:
        try:
            stripe.WebhookSignature.verify_header(body.decode(), header, self.secret, 300)
        except stripe.SignatureVerificationError as error:
            self.refused.append(str(error))
            return
        self.headers.append(header)
        self.events.append(json.loads(body))

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.types()
            await asyncio.sleep(0.02)


@dataclass
class Sim:
    """One running sandbox."""

    port: int
    process: subprocess.Popen[bytes]
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = KEY, **options: Any) -> stripe.StripeClient:
        return stripe.StripeClient(
            key,
            base_addresses=dict.fromkeys(("api", "connect", "files", "meter_events"), self.url),
            http_client=transport(),
            stripe_version=VERSION,
            **options,
        )

    async def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as http:
            return await http.request(method, f"/_sim{path}", json=body)

    async def pay(self, session_id: str, card: str = "4242424242424242") -> dict[str, Any]:
        answer = await self.control("POST", f"/checkout/{session_id}/pay", {"card": card})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def advance(self, v1: Any, clock_id: str, to: int) -> None:
        await v1.test_helpers.test_clocks.advance_async(clock_id, {"frozen_time": to})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            clock = await v1.test_helpers.test_clocks.retrieve_async(clock_id)
            if clock.status == "ready":
                assert clock.frozen_time == to
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the clock stays {clock.status}")

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(60)

    def start_again(self) -> None:
        self.process = _spawn(self.environment)
        _wait(self.url, self.process)


def _spawn(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.stripe_sim.app"], cwd=ROOT, env=environment
    )


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        assert process.poll() is None, "the sandbox ended at start"
        time.sleep(0.05)
    raise AssertionError("the sandbox does not come up")


def start(**environment: str) -> Sim:
    port = scratch_port()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STRIPE_", "SLUICE_"))
    }
    full = {**inherited, "SLUICE_STRIPE_SIM_PORT": str(port), **environment}
    sim = Sim(port, _spawn(full), full)
    _wait(sim.url, sim.process)
    return sim


@pytest.fixture(scope="session")
def shared_sim() -> Iterator[Sim]:
    """A sandbox for tests that need no webhooks; each takes an account of its own."""
    sim = start(STRIPE_SIM_SEED="tests")
    yield sim
    sim.stop()


@dataclass
class Tenant:
    """An account of its own in the shared sandbox."""

    sim: Sim
    id: str
    key: str

    @property
    def v1(self) -> Any:
        return self.sim.client(self.key).v1


async def new_tenant(sim: Sim) -> Tenant:
    answer = await sim.control("POST", "/accounts", {"name": "Tenant"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    return Tenant(sim, body["id"], body["secret_key"])


@pytest_asyncio.fixture
async def tenant(shared_sim: Sim) -> Tenant:
    return await new_tenant(shared_sim)


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest_asyncio.fixture
async def hooked(receiver: Receiver) -> AsyncGenerator[tuple[Sim, Receiver]]:
    """A sandbox whose platform endpoint is the receiver."""
    sim = start(STRIPE_SIM_WEBHOOK_URL=receiver.url)
    yield sim, receiver
    sim.stop()
