"""Fixtures of all tests: one throw-away Postgres (and Kafka) per run, a database per test."""

import os
import random
import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from cli.demo import next_number
from cli.story import Story
from cli.terms import draw
from deploy.local.scratch import RunningKafka, RunningPostgres, start_kafka, start_postgres
from deploy.local.stack import Stack
from libs.messaging.key_use import KEY_USES
from libs.testing.databases import TestDatabase, clone, leave, make_template
from libs.testing.memory_log import MemoryLog
from tests.trace_sink import TraceSink, trace_sink

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests" / "bench"

# No deadline, for the machine may be busy, and the same examples in every run: what fails, fails always.
settings.load_profile("ci")

# A crash is told as plainly as a service tells it. By default it comes in colours and with every local
# variable: that is a third of all work in files whose tests crash a service.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the modules that need the whole stack come last, in the order that was drawn.

    A stack costs a fifth of two cores though nobody asks it anything: until it is needed there is none.
    """
    needs_stack = {item.path for item in items if "stack" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in needs_stack)


def story_seed() -> int:
    """The seed of this run's stories; SLUICE_TEST_SEED repeats one."""
    seed = int(os.environ.get("SLUICE_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"story seed: SLUICE_TEST_SEED={seed}")
    return seed


def free_port_base() -> int:
    """Where this run's stack has its ports, away from the laptop's and from other runs.

    All below 32,768: above it Linux gives ports to outgoing connections, and one of those may be there
    first when a program of the stack starts again.
    """
    return 21_000 + (os.getpid() % 117) * 100


@pytest.fixture(autouse=True)
def _no_keys_used_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is a process of its own: keys that earlier tests used are not told in it."""
    monkeypatch.setattr(KEY_USES, "_uses", {})


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
async def template(postgres_server: RunningPostgres) -> AsyncGenerator[str, None]:
    """The migrated template database; its server's DSN."""
    await make_template(postgres_server.dsn)
    yield postgres_server.dsn
    leave(postgres_server.dsn)


@pytest.fixture
async def database(template: str) -> AsyncGenerator[TestDatabase, None]:
    """A migrated database of this test's own."""
    async with clone(template) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def traces(scratch: Path) -> Generator[TraceSink, None, None]:
    """Where the stack sends its traces."""
    with trace_sink(scratch / "traces") as sink:
        yield sink


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, scratch: Path, traces: TraceSink
) -> Generator[Stack, None, None]:
    """The whole system as it runs on a laptop, on ports and data of its own.

    Tests look at its traces. Where all that runs is measurements they go nowhere, as by default.
    """
    is_measured = all(item.path.is_relative_to(BENCHMARKS) for item in request.session.items)
    running = Stack(
        scratch / "stack",
        port_base=free_port_base(),
        extra_environment={} if is_measured else {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint},
    )
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="session")
async def played_story(stack: Stack) -> Story:
    """A stack on which the story has been played to its end."""
    environment = stack.environment()
    story = Story(environment, draw(story_seed()), number=await next_number(environment))
    for step in story.steps():
        await step()
    await story.close()
    return story


@pytest.fixture
def log() -> MemoryLog:
    """A log in memory in place of Kafka."""
    return MemoryLog()
