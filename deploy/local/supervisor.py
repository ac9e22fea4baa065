"""The process that starts a stack's programs in order, keeps them running and ends them.

`python -m deploy.local.supervisor --root FOLDER` reads `run/programs.json` in the folder and writes
`run/state.json`. SIGTERM and SIGINT stop everything in reverse order. With `--detach` the command
returns at once and the supervisor goes on in a session of its own.
"""

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from itertools import groupby
from pathlib import Path

from deploy.local.folders import Folders, write_atomically
from deploy.local.logs import rotate, say
from deploy.local.process import identify
from deploy.local.program import Programs, StackState
from deploy.local.runner import Runner, StartFailedError

HOUSEKEEPING_SECONDS = 1
EXIT_START_FAILED = 1
EXIT_ALREADY_RUNNING = 3


class Supervisor:
    """Runs the programs of one stack."""

    def __init__(self, folders: Folders, programs: Programs) -> None:
        identity = identify(os.getpid())
        if identity is None:
            raise RuntimeError("this process does not see itself in /proc")
        self._folders = folders
        self._state = StackState(supervisor=identity)
        self._unsaved = True
        ordered = sorted(programs.programs, key=lambda program: program.stage)
        self._stages = [
            [Runner(program, folders.log(program.name), self._note_change) for program in stage]
            for _, stage in groupby(ordered, key=lambda program: program.stage)
        ]
        self._loading = asyncio.Semaphore(programs.starting_at_once)

    async def run(self) -> int:
        """Run until told to stop, or until the start has failed; the exit code."""
        told_to_stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told_to_stop.set)
        self._save()
        housekeeping = asyncio.create_task(self._keep_house())
        stopping = asyncio.create_task(told_to_stop.wait())
        running = asyncio.create_task(self._start())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failure = await self._failure_of(running)
        if failure is None and not stopping.done():
            self._state.phase = "running"
            self._note_change()
            await stopping
        self._state.phase = "stopping"
        await self._stop()
        housekeeping.cancel()
        if failure is None:
            self._folders.state.unlink(missing_ok=True)
            return 0
        self._state.phase = "failed"
        self._state.message, self._state.details = str(failure), failure.details
        self._save()
        return EXIT_START_FAILED

    @staticmethod
    async def _failure_of(starting: asyncio.Task[None]) -> StartFailedError | None:
        """How the start ended; one that is still going on is given up."""
        starting.cancel()
        try:
            await starting
        except StartFailedError as error:
            return error
        except asyncio.CancelledError:
            pass
        return None

    async def _start(self) -> None:
        for stage in self._stages:
            starts = [asyncio.create_task(self._start_one(runner)) for runner in stage]
            try:
                done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
                for start in done:
                    start.result()
            finally:
                for start in starts:
                    start.cancel()
                await asyncio.gather(*starts, return_exceptions=True)

    async def _start_one(self, runner: Runner) -> None:
        async with self._loading:
            runner.start()
            await runner.wait_until_loaded()
        await runner.wait_until_ready()

    async def _stop(self) -> None:
        for stage in reversed(self._stages):
            await asyncio.gather(*(runner.stop() for runner in stage))

    def _note_change(self) -> None:
        self._unsaved = True
        self._save()

    def _save(self) -> None:
        """Write the state; where the disk is full the next second tries again."""
        runners = [runner for stage in self._stages for runner in stage]
        self._state.programs = [runner.state for runner in runners]
        try:
            write_atomically(self._folders.state, self._state.model_dump_json(indent=1))
        except OSError as error:
            say(f"cannot write {self._folders.state}: {error}")
        else:
            self._unsaved = False

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            if self._unsaved:
                self._save()
            for log in self._folders.logs.glob("*.log"):
                rotate(log)


def main() -> int:
    """Run the supervisor of the stack in `--root`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True, help="the stack's folder")
    parser.add_argument("--detach", action="store_true", help="return at once")
    arguments = parser.parse_args()
    folders = Folders(arguments.root.resolve())
    if arguments.detach and os.fork():
        return 0
    if arguments.detach:
        os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with folders.supervisor_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("a supervisor of this stack is already running")
            return EXIT_ALREADY_RUNNING
        programs = Programs.model_validate_json(folders.programs.read_text())
        return asyncio.run(_supervise(folders, programs))


async def _supervise(folders: Folders, programs: Programs) -> int:
    return await Supervisor(folders, programs).run()


if __name__ == "__main__":
    sys.exit(main())
