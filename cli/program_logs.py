"""Showing the programs' logs."""

import time
from collections.abc import Iterator
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.folders import Folders
from deploy.local.logs import tail

FOLLOW_SECONDS = 0.3


def find_logs(folders: Folders, program: str | None) -> list[Path]:
    """The logs of all programs, or of one.

    Raises:
        StackError: there is no such log; the message names those there are.
    """
    logs = sorted(folders.logs.glob("*.log"))
    if not logs:
        raise StackError("There are no logs yet: the stack was never started.")
    if program is None:
        return logs
    found = [log for log in logs if log.stem == program]
    if not found:
        names = ", ".join(log.stem for log in logs)
        raise StackError(f"There is no log of {program!r}. Logs: {names}.")
    return found


def last_lines(logs: list[Path], lines: int) -> Iterator[tuple[str, str]]:
    """(program, line) of the last lines of each log."""
    for log in logs:
        for line in tail(log, lines):
            yield log.stem, line


def follow(logs: list[Path]) -> Iterator[tuple[str, str]]:
    """(program, line) for every line written from now on, until interrupted."""
    positions = {log: log.stat().st_size for log in logs}
    unfinished = dict.fromkeys(logs, b"")
    while True:
        for log in logs:
            size = log.stat().st_size if log.exists() else 0
            # A log that shrank was cut because it had grown too long.
            start = min(positions[log], size) if size >= positions[log] else 0
            if size > start:
                with log.open("rb") as handle:
                    handle.seek(start)
                    text = unfinished[log] + handle.read(size - start)
                *whole, unfinished[log] = text.split(b"\n")
                for line in whole:
                    yield log.stem, line.decode(errors="replace")
            positions[log] = size
        time.sleep(FOLLOW_SECONDS)
