"""Every test in two processes side by side, each with servers of its own: two cores are busy with both.

    python -m tests.side_by_side -m "not bench"

One process takes the folders in BESIDE, the other all the rest: a new folder is never left out. What the
first says is shown as it is said, what the second said when the first is through, whole and in one piece.
A signal that ends this ends both.
"""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import pytest

from deploy.local.folders import REPOSITORY

BESIDE = (
    "tests/bench",
    "tests/chaos",
    "tests/cli",
    "tests/clients",
    "tests/e2e",
    "tests/flows",
    "tests/services/stripe_sync",
    "tests/stack",
)
"""About half of the time; with all that needs a whole stack, so that there is one only."""

NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal sends the first to both processes itself, and a second one would break off their tidying up."""


def halves(options: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """The command of each process.

    Args:
        folder: where each puts its files. In its usual place every pytest that begins shuts other users
            out: a Postgres there that runs as a user of its own could not be started again.
    """
    command = [sys.executable, "-m", "pytest", *options]
    first, second = ([*command, f"--basetemp={folder / name}"] for name in ("first", "second"))
    return [*first, *(f"--ignore={folder}" for folder in BESIDE)], [*second, *BESIDE]


def run(first: Sequence[str], second: Sequence[str], out: BinaryIO) -> int:
    """Run both; the worse of their exit codes, when both have ended."""
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            for process in running:
                process.send_signal(number)

    with tempfile.TemporaryFile() as said:
        former = {number: signal.signal(number, pass_on) for number in ENDING}
        try:
            for command, to in ((first, out), (second, said)):
                running.append(subprocess.Popen(command, stdout=to, stderr=to, cwd=REPOSITORY))
            codes = [process.wait() for process in running]
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        said.seek(0)
        out.write(said.read())
        out.flush()
    # A process that a signal ended has that signal's number, below zero. What was asked for by name may
    # stand in one half only.
    return max(abs(code) for code in codes if code != NO_TESTS or set(codes) == {NO_TESTS})


if __name__ == "__main__":
    print(
        f"Beside these tests run those of {', '.join(BESIDE)}; what they say follows.", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="sluice-tests-") as files:
        status = run(*halves(sys.argv[1:], Path(files)), sys.stdout.buffer)
    sys.exit(status)
