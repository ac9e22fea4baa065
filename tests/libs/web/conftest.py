"""The trial service, called in memory."""

import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parent))

import trial_service


@pytest.fixture(autouse=True)
def logged() -> Generator[list[dict[str, object]], None, None]:
    """What is logged, kept from the console."""
    with capture_logs() as events:
        yield events


@pytest.fixture
async def api() -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of the trial service, without a socket between them."""
    transport = httpx.ASGITransport(app=trial_service.build())
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield client
