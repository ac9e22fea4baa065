"""Throw-away servers for tests: only Postgres, or only Kafka, in a folder of their own.

    postgres = start_postgres(folder)
    ... postgres.dsn ...
    postgres.stop()

They end when `stop` is called, when the interpreter exits and, by their guard (see
`deploy.local.guard`), when it is killed. A start in a folder where a former server still runs ends
that one first. The data stays in the folder and is used again.
"""

import atexit
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from deploy.local import kafka, postgres
from deploy.local.apart import run_apart
from deploy.local.errors import StackError
from deploy.local.folders import CACHE, REPOSITORY
from deploy.local.ports import HOST, next_free, scratch_port
from deploy.local.process import ProcessIdentity, end, identify, kill_members

READY_TIMEOUT_SECONDS = 180
"""A killed Postgres makes every file of its data durable first: minutes where a busy disk is slow."""
LOG_LINES_SHOWN = 15


@dataclass(frozen=True)
class _Server:
    """How a scratch server is started and stopped."""

    name: str
    root: Path
    command: list[str]
    environment: dict[str, str]
    user: str | None
    stop_signal: signal.Signals
    private_folder: Path | None
    is_ready: Callable[[int], bool]

    @property
    def log(self) -> Path:
        return self.root / f"{self.name}.log"

    @property
    def record(self) -> Path:
        return self.root / f"{self.name}.pid.json"


class _Running:
    """A scratch server that runs, with the guard that ends it when this process dies."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._launch()
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The pid of the server's first process."""
        return self._process.pid

    def _launch(self) -> None:
        server = self._server
        with server.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own command line)
                server.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=server.private_folder,
                env={"PATH": os.defpath, "TZ": "UTC", **server.environment},
                user=server.user,
                group=server.user,
                extra_groups=[] if server.user else None,
                start_new_session=True,
            )
        identity = identify(self._process.pid)
        if identity is None:
            raise self._failed("ended at once")
        self._identity = identity
        server.record.write_text(json.dumps(asdict(identity)))
        self._guard = subprocess.Popen(  # noqa: S603 (our own module)
            [
                *(sys.executable, "-m", "deploy.local.guard"),
                *(str(identity.pid), str(identity.started_ticks), identity.boot_id),
                *(str(int(server.stop_signal)), str(server.private_folder or "")),
            ],
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not self._server.is_ready(self._process.pid):
            if self._process.poll() is not None:
                self._dismiss_guard()
                raise self._failed(f"ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.stop()
                raise self._failed(f"was not ready within {READY_TIMEOUT_SECONDS} s")
            time.sleep(0.05)

    def _failed(self, what: str) -> StackError:
        lines = self._server.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(lines)
        return StackError(f"Scratch {self._server.name} {what}:\n{shown}", tuple(lines))

    def _dismiss_guard(self) -> None:
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()

    def stop(self) -> None:
        """Stop the server and everything of it; a second call does nothing."""
        end(
            self._identity,
            stop_signal=self._server.stop_signal,
            timeout_seconds=15,
            private_folder=self._server.private_folder,
        )
        self._process.wait()
        self._dismiss_guard()
        atexit.unregister(self.stop)

    def kill9(self) -> None:
        """SIGKILL the server as a crash would: nothing is flushed or said goodbye to."""
        kill_members(self._identity, self._server.private_folder)
        self._process.wait()
        self._dismiss_guard()

    def start_again(self) -> None:
        """Start the server anew on the same port and data, and wait until it is ready.

        Raises:
            StackError: it did not become ready; the message holds the end of its log.
        """
        self.stop()
        self._launch()
        atexit.register(self.stop)


class RunningPostgres(_Running):
    """A scratch Postgres.

    Attributes:
        dsn: the superuser's connection string of the database `sluice`.
        data: the data folder, in which only this server's processes work.
    """

    def __init__(self, server: _Server, dsn: str, data: Path) -> None:
        self.dsn = dsn
        self.data = data
        super().__init__(server)


def start_postgres(root: Path) -> RunningPostgres:
    """Start a Postgres of its own in `root` on a free port; about a second.

    Raises:
        StackError: it cannot start; the message says why.
    """
    root = _folder(root)
    _end_leftover(root, "postgres", root / "postgres")
    password_file = root / "postgres.password"
    if not password_file.exists():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(16))
    password = password_file.read_text()
    data = root / "postgres"
    postgres.initialize(data, password)
    port = scratch_port()
    server = _Server(
        name="postgres",
        root=root,
        command=postgres.server_command(data, port),
        environment={},
        user=postgres.operating_user(),
        stop_signal=signal.SIGINT,  # fast shutdown: connections are ended, data is flushed
        private_folder=data,
        is_ready=partial(postgres.is_ready, data),
    )
    return RunningPostgres(server, postgres.dsn(password, port), data)


class RunningKafka(_Running):
    """A scratch Kafka.

    Attributes:
        bootstrap: `host:port` for clients.
    """

    def __init__(self, server: _Server, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        super().__init__(server)


def start_kafka(root: Path) -> RunningKafka:
    """Start a Kafka of its own in `root` on free ports; a few seconds, once its jars are there.

    Raises:
        StackError: it cannot start; the message says why.
    """
    root = _folder(root)
    _end_leftover(root, "kafka", None)
    jars = kafka.install(CACHE)
    port = scratch_port()
    files = kafka.prepare(root / "kafka", jars, port, next_free(port + 1))
    server = _Server(
        name="kafka",
        root=root,
        command=kafka.server_command(files),
        environment={},
        user=None,
        stop_signal=signal.SIGTERM,
        private_folder=files.folder,
        is_ready=lambda _: run_apart(lambda: kafka.is_ready(port)),
    )
    return RunningKafka(server, f"{HOST}:{port}")


def _folder(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def _end_leftover(root: Path, name: str, private_folder: Path | None) -> None:
    """End what an earlier run left running here, found by its recorded pid and start time."""
    record = root / f"{name}.pid.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        identity = ProcessIdentity(**json.loads(record.read_text()))
        end(identity, timeout_seconds=0, private_folder=private_folder)
    record.unlink(missing_ok=True)
