"""The programs of a stack as the kernel counts them."""

import os
from pathlib import Path

from deploy.local.stack import Stack


def tree(pid: int) -> list[int]:
    """A process and everything below it; one that ends meanwhile has nothing below."""
    children = _read(f"/proc/{pid}/task/{pid}/children").split()
    return [pid, *(found for child in children for found in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """The processor time that a process took, with those of its children that have ended.

    Nothing where it has ended itself: it is among those of its parent.
    """
    return sum(cpu_seconds_apart(pid))


def cpu_seconds_apart(pid: int) -> tuple[float, float]:
    """The same: its own, and that of its children that have ended."""
    ticks = [int(each) for each in _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[11:15]]
    per_second = os.sysconf("SC_CLK_TCK")
    return sum(ticks[:2]) / per_second, sum(ticks[2:]) / per_second


def _read(path: str) -> str:
    """What the kernel says of a process; nothing where there is none any more."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_seconds_of(stack: Stack) -> dict[str, float]:
    """The processor time of each program with everything below it, and of this test."""
    state = stack.state()
    assert state is not None
    found = {
        program.name: sum(map(cpu_seconds, tree(program.pid)))
        for program in state.programs
        if program.pid
    }
    return found | {"this test": cpu_seconds(os.getpid())}
