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
    after_name = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")


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
