"""Timed work: a run that fails, in whatever way, does not end the service or the job."""

import asyncio

import pytest

from libs.messaging import broker
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.testing.databases import TestDatabase


@pytest.mark.parametrize("error", [OSError("away"), ValueError("an odd row")])
async def test_a_job_that_fails_is_run_again(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(broker, "BROKEN_JOB_PAUSE_SECONDS", 0.01)
    runs: list[int] = []
    again = asyncio.Event()

    async def run_once() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise error
        again.set()

    opened = await database.open_unmanaged("ledger")
    runtime = Runtime(opened, "127.0.0.1:9", Health())
    runtime.add_job("trial", run_once, every_seconds=0.01)
    async with runtime.running(), asyncio.timeout(60):
        await again.wait()
    assert len(runs) >= 2
