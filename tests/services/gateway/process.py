"""A gateway as a process of its own, reached over a real socket, with its log in a file."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.local.ports import scratch_port
from libs.testing.databases import TestDatabase
from tests.services.gateway.conftest import CONNECT, CURRENT, MASTER_KEY, PEPPER, PREVIOUS

ROOT = Path(__file__).resolve().parents[3]
NO_KAFKA = "127.0.0.1:1"
STARTS_SECONDS = 60


def free_port() -> int:
    """A port nobody listens on."""
    return scratch_port()


@dataclass
class GatewayProcess:
    """`python -m services.gateway.app` over a database of the test's own.

    Attributes:
        secrets: of the platform's endpoint, the one before, and that for connected accounts.
    """

    database: TestDatabase
    folder: Path
    kafka: str = NO_KAFKA
    log_level: str = "info"
    secrets: tuple[bytes, bytes, bytes] = (CURRENT, PREVIOUS, CONNECT)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id while it runs."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        """What it wrote to stdout and stderr."""
        return self.folder / "gateway.log"

    def environment(self) -> dict[str, str]:
        """The variables it gets, and no others."""
        current, previous, connect = self.secrets
        return {
            "PATH": os.environ["PATH"],
            "SLUICE_GATEWAY_PORT": str(self.port),
            "SLUICE_GATEWAY_POSTGRES": self.database.dsn("gateway"),
            "SLUICE_KAFKA": self.kafka,
            "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
            "SLUICE_MASTER_KEYS": f"k1:{base64.b64encode(MASTER_KEY).decode()}",
            "SLUICE_LOG_LEVEL": self.log_level,
            "STRIPE_SECRET_KEY": "sk_test_x",
            "STRIPE_WEBHOOK_SECRET": current.decode(),
            "STRIPE_WEBHOOK_SECRET_PREVIOUS": previous.decode(),
            "STRIPE_CONNECT_WEBHOOK_SECRET": connect.decode(),
        }

    def launch(self) -> None:
        """Start it; `start` waits for it too."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway.app"],
                cwd=ROOT,
                env=self.environment(),
                stdout=log,
                stderr=log,
            )

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        await self.answers()

    async def answers(self) -> None:
        """Wait until it does; Kafka may be away."""
        async with asyncio.timeout(STARTS_SECONDS), httpx.AsyncClient() as client:
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                try:
                    if (await client.get(f"{self.url}/healthz")).is_success:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.1)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop; it ends with status 0."""
        assert self._end(signal.SIGTERM) == 0

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        return process.wait(60)

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far; every line is one JSON object."""
        written, _, _unfinished = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in written.splitlines()]
