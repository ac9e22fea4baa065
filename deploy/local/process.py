"""Processes by identity: a pid alone may belong to somebody else a minute later.

A process is known by its pid, its start time in clock ticks since boot and the boot itself, as the
kernel's `proc` file system tells them (proc(5)). Nothing is ever ended by its name.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process for good: no later process with the same pid is equal to it."""

    pid: int
    started_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    group: int
    session: int
    started_ticks: int
    zombie: bool


@cache
def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command stands in parentheses and may hold spaces and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started_ticks=int(fields[19]),
        zombie=fields[0] in {"Z", "X"},
    )


def _all_stats() -> Iterator[_Stat]:
    for entry in os.scandir(PROC):
        if entry.name.isdigit() and (stat := _read_stat(int(entry.name))):
            yield stat


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the living process `pid`, or None when there is none."""
    stat = _read_stat(pid)
    if stat is None or stat.zombie:
        return None
    return ProcessIdentity(pid, stat.started_ticks, _boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether exactly this process still runs (a zombie does not)."""
    return identify(identity.pid) == identity


def send(identity: ProcessIdentity, signal_number: int) -> None:
    """Send a signal to exactly this process; no process, no signal."""
    if is_alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal_number)


def members(identity: ProcessIdentity, private_folder: Path | None = None) -> set[int]:
    """The pids of a program: its process group and session, all descendants, and what works in its folder.

    Postgres gives every backend a session of its own, so a killed postmaster leaves backends that
    no group names; they are known by their working folder, the data folder that is theirs alone.

    Args:
        identity: the program's first process, alive or not.
        private_folder: a folder in which no other program works.
    """
    stats = [stat for stat in _all_stats() if not stat.zombie]
    pid_is_reused = any(
        stat.pid == identity.pid and stat.started_ticks != identity.started_ticks for stat in stats
    )
    found: set[int] = set()
    if identity.boot_id == _boot_id() and not pid_is_reused:
        leader = identity.pid
        found = {s.pid for s in stats if leader in (s.pid, s.group, s.session)}
        grown = True
        while grown:
            children = {s.pid for s in stats if s.parent in found} - found
            found |= children
            grown = bool(children)
    if private_folder is not None:
        found |= {stat.pid for stat in stats if _works_in(stat.pid, private_folder)}
    return found - {os.getpid()}


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").readlink() == folder
    except OSError:
        return False


def kill_members(identity: ProcessIdentity, private_folder: Path | None = None) -> None:
    """SIGKILL everything `members` names until nothing is left.

    Raises:
        TimeoutError: something survived SIGKILL for 10 s (a process stuck in the kernel).
    """
    deadline = time.monotonic() + 10
    while pids := members(identity, private_folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(pids)} do not end")
        time.sleep(POLL_SECONDS)


def end(
    identity: ProcessIdentity,
    *,
    stop_signal: int = signal.SIGTERM,
    timeout_seconds: float = 15,
    private_folder: Path | None = None,
) -> None:
    """Ask a program to stop, wait, then SIGKILL whatever is left of it.

    Raises:
        TimeoutError: something survived SIGKILL.
    """
    send(identity, stop_signal)
    deadline = time.monotonic() + timeout_seconds
    while is_alive(identity) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    kill_members(identity, private_folder)
