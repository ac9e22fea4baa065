"""Throw-away servers end with whoever started them; a killed Postgres comes back at once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local import kafka, postgres
from deploy.local.folders import CACHE, REPOSITORY
from deploy.local.jars import checksums, jar_folder
from deploy.local.process import identify, is_alive, kill_members
from deploy.local.scratch import RunningPostgres, start_kafka, start_postgres
from tests.stack.test_supervisor import until

# Starts a server, tells its pid and waits to be killed.
STARTER = """
import sys, time
from pathlib import Path
from deploy.local.scratch import start_postgres
print(start_postgres(Path(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningPostgres]:
    server = start_postgres(tmp_path / "scratch")
    yield server
    server.stop()


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_the_server_is_real_durable_and_needs_its_password(server: RunningPostgres) -> None:
    assert str(await value(server.dsn, "show server_version")).startswith("18")
    assert await value(server.dsn, "show fsync") == "on"
    assert await value(server.dsn, "show synchronous_commit") == "on"
    assert await value(server.dsn, "show max_connections") == "200"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn, password="wrong")


async def test_a_killed_server_comes_back_with_what_was_committed(server: RunningPostgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("create table kept as select 7 as n")
    dsn, pid = server.dsn, server.pid
    server.kill9()
    server.start_again()
    assert server.pid != pid
    assert await value(dsn, "select n from kept") == 7
    connection.terminate()


async def test_no_backend_outlives_a_killed_postmaster(server: RunningPostgres) -> None:
    """A busy backend does not notice that its postmaster died, and would block the next one."""
    connection = await asyncpg.connect(server.dsn)
    pid = await connection.fetchval("select pg_backend_pid()")
    backend = identify(pid)
    assert backend is not None
    # Counting never looks at the postmaster's pipe.
    transport = connection._transport
    query = b"select count(*) from generate_series(1, 10000000000)\0"
    transport.write(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "R")
    postmaster = identify(server.pid)
    assert postmaster is not None
    os.kill(server.pid, signal.SIGKILL)
    await asyncio.sleep(0.3)
    assert is_alive(backend), "this backend is the danger that the test is about"
    kill_members(postmaster, server.data)
    assert not is_alive(backend)
    server.start_again()
    assert await value(server.dsn, "select 1") == 1
    connection.terminate()


def test_a_server_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "scratch")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as starter:
        assert starter.stdout is not None
        server = identify(int(starter.stdout.readline()))
        assert server is not None
        starter.kill()
        until(lambda: not is_alive(server))


def test_a_broken_start_leaves_no_half_made_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    (tmp_path / "postgres.unfinished").mkdir()
    (tmp_path / "postgres.unfinished" / "PG_VERSION").write_text("18")
    postgres.initialize(data, "secret")
    assert (data / "postgresql.conf").exists()
    assert not (tmp_path / "postgres.unfinished").exists()


@pytest.mark.skipif(
    any(not (jar_folder(CACHE) / name).exists() for name in checksums()),
    reason="Kafka's jars are not fetched yet; `make up` fetches them",
)
async def test_a_killed_kafka_comes_back_on_the_same_port(tmp_path: Path) -> None:
    server = start_kafka(tmp_path / "scratch")
    try:
        port = int(server.bootstrap.rpartition(":")[2])
        server.kill9()
        assert not await kafka.is_ready(port)
        server.start_again()
        assert await kafka.is_ready(port)
    finally:
        server.stop()
