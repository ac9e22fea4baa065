"""Processes by identity, and everything that belongs to a program."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import (
    ProcessIdentity,
    end,
    identify,
    is_alive,
    kill_members,
    members,
    send,
)

SLEEP = "import time; time.sleep(600)"
# A child in the same group, and a grandchild that leaves for a session of its own.
FAMILY = f"""
import subprocess, sys, time
first = subprocess.Popen([sys.executable, "-S", "-c", {SLEEP!r}])
second = subprocess.Popen([sys.executable, "-S", "-c", {SLEEP!r}], start_new_session=True)
print(first.pid, second.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", FAMILY],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        children = [int(word) for word in process.stdout.readline().split()]
        yield process, children
        for pid in (process.pid, *children):
            if identify(pid):
                os.kill(pid, signal.SIGKILL)


def identity_of(pid: int) -> ProcessIdentity:
    identity = identify(pid)
    assert identity is not None
    return identity


def test_a_process_is_itself_and_nobody_else() -> None:
    me = identity_of(os.getpid())
    assert is_alive(me)
    assert not is_alive(ProcessIdentity(me.pid, me.started_ticks + 1, me.boot_id))
    assert not is_alive(ProcessIdentity(me.pid, me.started_ticks, "another boot"))


def test_a_process_that_ended_but_was_not_collected_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        deadline = time.monotonic() + 60
        while identify(process.pid) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_children_and_grandchildren_belong_to_their_program(
    family: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, children = family
    assert members(identity_of(process.pid)) == {process.pid, *children}


def test_a_killed_program_is_still_known_by_its_group_and_its_folder(
    family: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    process, children = family
    identity = identity_of(process.pid)
    process.kill()
    process.wait()
    # The one that left for its own session has only its working folder in common.
    assert members(identity) == {children[0]}
    assert members(identity, tmp_path) == set(children)
    kill_members(identity, tmp_path)
    assert members(identity, tmp_path) == set()


def test_a_reused_pid_is_never_touched(
    family: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, children = family
    now = identity_of(process.pid)
    former = ProcessIdentity(now.pid, now.started_ticks - 100, now.boot_id)
    assert members(former) == set()
    send(former, signal.SIGKILL)
    end(former, timeout_seconds=0)
    assert is_alive(now)
    assert all(identify(child) for child in children)
