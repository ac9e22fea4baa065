"""The programs of a stack as the kernel counts them."""

import os
from pathlib import Path

from deploy.local.stack import Stack


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """The processor time that a process took, with those of its children that have ended."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")


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
