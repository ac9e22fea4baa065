"""The programs' logs: one file each, appended by the program itself, cut when it grows too long."""

import contextlib
import shutil
from pathlib import Path

SIZE_BYTES_MAX = 10 * 1024 * 1024
TAIL_BYTES_MAX = 64 * 1024


def say(text: str) -> None:
    """Write a line to the supervisor's own log; where the disk is full it is lost, and that is all."""
    with contextlib.suppress(OSError):
        print(text, flush=True)  # noqa: T201 (standard output is the log)


def rotate(log: Path, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
    """Keep a log that has grown too long as `<name>.log.1` and empty it.

    The file stays the same one: the program has it open for appending and goes on at its new end.
    Where the disk is full the copy is given up for the space.
    """
    try:
        if log.stat().st_size <= size_bytes_max:
            return
        try:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
        finally:
            with log.open("r+b") as handle:
                handle.truncate(0)
    except OSError:
        return


def tail(log: Path, lines: int, from_byte: int = 0) -> list[str]:
    """The last lines of a log, or of what was written after `from_byte`."""
    try:
        with log.open("rb") as handle:
            size = handle.seek(0, 2)
            start = from_byte if from_byte <= size else 0
            handle.seek(max(start, size - TAIL_BYTES_MAX))
            text = handle.read(TAIL_BYTES_MAX).decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
