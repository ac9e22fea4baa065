"""Fixtures of all tests: one throw-away Postgres (and Kafka) per run, a database per test."""

import os
import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from deploy.local.scratch import RunningKafka, RunningPostgres, start_kafka, start_postgres
from libs.testing.databases import TestDatabase, clone, make_template
from libs.testing.memory_log import MemoryLog

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def scratch() -> Generator[Path, None, None]:
    """A folder of this run's own, so that two runs in one checkout do not meet."""
    folder = ROOT / ".local" / "test" / f"run-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(scratch: Path) -> Generator[RunningPostgres, None, None]:
    """A real Postgres on a free port, with data of its own."""
    server = start_postgres(scratch)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka_server(scratch: Path) -> Generator[RunningKafka, None, None]:
    """A real Kafka on a free port, with data of its own."""
    server = start_kafka(scratch)
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def template(postgres_server: RunningPostgres) -> str:
    """The migrated template database; its server's DSN."""
    await make_template(postgres_server.dsn)
    return postgres_server.dsn


@pytest.fixture
async def database(template: str) -> AsyncGenerator[TestDatabase, None]:
    """A migrated database of this test's own."""
    async with clone(template) as fresh:
        yield fresh


@pytest.fixture
def log() -> MemoryLog:
    """A log in memory in place of Kafka."""
    return MemoryLog()
