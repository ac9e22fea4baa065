"""One program of the stack: started, watched, and started again when it ends by itself."""

import asyncio
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.checks import is_loaded, is_ready
from deploy.local.logs import say, tail
from deploy.local.process import end, identify, kill_members
from deploy.local.program import DoneReady, Program, ProgramState

POLL_SECONDS = 0.1
BACKOFF_SECONDS = (0.2, 1, 2, 4, 8, 15)
# A program that ran this long is not in a crash loop: its next restart is quick again.
HEALTHY_SECONDS = 30
CRASHES_AT_START_MAX = 3
LOG_LINES_SHOWN = 15


class StartFailedError(Exception):
    """A program did not become ready while the stack started; `details` end its log."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details


class Runner:
    """Runs one program until it is stopped."""

    def __init__(self, program: Program, log: Path, changed: Callable[[], None]) -> None:
        self.program = program
        self.state = ProgramState(name=program.name, private_folder=program.private_folder)
        self._log = log
        self._log_start = 0
        self._changed = changed
        self._loaded = asyncio.Event()
        self._ready = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to run the program; returns at once."""
        self._task = asyncio.create_task(self._keep_running())
        self._task.add_done_callback(self._say_how_it_ended)

    def _say_how_it_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            say(f"{self.program.name} is no longer watched: {error!r}")
            self._set("failed", last_exit=f"no longer watched: {error}")

    async def wait_until_loaded(self) -> None:
        """Wait until the costly part of the first start is over.

        Raises:
            StartFailedError: it will not be.
        """
        await self._wait_for(self._loaded)

    async def wait_until_ready(self) -> None:
        """Wait until the program is ready for the first time.

        Raises:
            StartFailedError: it keeps crashing, or is not ready in time.
        """
        await self._wait_for(self._ready)

    async def _wait_for(self, event: asyncio.Event) -> None:
        waiting = asyncio.ensure_future(event.wait())
        either: list[asyncio.Future[Any]] = [waiting, self._failure]
        try:
            async with asyncio.timeout(self.program.start_seconds):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            seconds = self.program.start_seconds
            raise self._start_failed(f"was not ready within {seconds:g} s") from None
        finally:
            waiting.cancel()
        if self._failure.done():
            self._failure.result()

    def _start_failed(self, what: str) -> StartFailedError:
        details = tail(self._log, LOG_LINES_SHOWN, self._log_start)
        return StartFailedError(f"{self.program.name} {what}.", details)

    async def _keep_running(self) -> None:
        crashes = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                process = self._launch()
            except OSError as error:
                self._set("crashed", last_exit=f"could not be started: {error}")
            else:
                code = await self._watch(process)
                await self._end_the_rest()
                if isinstance(self.program.ready, DoneReady) and code == 0:
                    self._became_ready("done")
                    return
                self._set("crashed", last_exit=_in_words(code))
            if asyncio.get_running_loop().time() - began > HEALTHY_SECONDS:
                crashes = 0
            crashes += 1
            if self._gives_up(crashes):
                return
            await asyncio.sleep(BACKOFF_SECONDS[min(crashes, len(BACKOFF_SECONDS)) - 1])
            self.state.restarts += 1

    def _gives_up(self, crashes: int) -> bool:
        """Only while the stack starts; later a program is always started again."""
        once = isinstance(self.program.ready, DoneReady)
        if self._ready.is_set() or not (once or crashes >= CRASHES_AT_START_MAX):
            return False
        times = "" if once else f" {crashes} times"
        self._set("failed")
        if not self._failure.done():
            failed = self._start_failed(f"ended{times} while starting: {self.state.last_exit}")
            self._failure.set_exception(failed)
        return True

    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process; never interrupted half-way, so none is started and forgotten."""
        program = self.program
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            process = subprocess.Popen(  # noqa: S603 (what the stack's own file names)
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=program.folder,
                env=program.environment,
                user=program.user,
                group=program.user,
                extra_groups=[] if program.user else None,
                start_new_session=True,
            )
        self._process = process
        self.state.identity = identify(process.pid)
        self._set("starting")
        return process

    async def _watch(self, process: subprocess.Popen[bytes]) -> int:
        """Note when the process becomes ready, and wait for its end; its exit code."""
        watching = asyncio.create_task(self._watch_readiness(process.pid))
        try:
            while (code := process.poll()) is None:  # noqa: ASYNC110 (likewise)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            watching.cancel()
        return code

    async def _watch_readiness(self, pid: int) -> None:
        """Note when a started program is loaded and when it is ready; then there is no more to see."""
        ready = self.program.ready
        if isinstance(ready, DoneReady):
            return
        while not await is_loaded(ready, pid):  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(POLL_SECONDS)
        self._loaded.set()
        while not await is_ready(ready, pid):  # noqa: ASYNC110 (likewise)
            await asyncio.sleep(POLL_SECONDS)
        self._became_ready("ready")

    def _became_ready(self, phase: str) -> None:
        self._loaded.set()
        self._ready.set()
        self._set(phase)

    async def _end_the_rest(self) -> None:
        """End what the program left behind: it would hold ports, locks and shared memory."""
        if self.state.identity is not None:
            folder = self.program.private_folder
            try:
                await asyncio.to_thread(kill_members, self.state.identity, folder)
            except TimeoutError as error:
                # Started again all the same: the program itself says best what is in its way.
                say(f"{self.program.name}: {error}")
        self.state.identity = None

    async def stop(self) -> None:
        """Stop the program and everything of it; it is not started again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._failure.done():
            self._failure.exception()
        if (identity := self.state.identity) is not None:
            self._set("stopping")
            await asyncio.to_thread(
                end,
                identity,
                stop_signal=self.program.stop_signal,
                timeout_seconds=self.program.stop_seconds,
                private_folder=self.program.private_folder,
            )
            self.state.identity = None
        if self._process is not None:
            self._process.wait()
        self._set("stopped")

    def _set(self, phase: str, last_exit: str | None = None) -> None:
        self.state = self.state.model_copy(
            update={"phase": phase, "last_exit": last_exit or self.state.last_exit}
        )
        self._changed()


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
