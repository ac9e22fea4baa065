"""A disk that is full, or nearly: refused before the start, named during it, outlived after it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.disk import full_disk_named, require_room, tells_of_full_disk
from deploy.local.errors import StackError
from deploy.local.ports import is_free
from deploy.local.process import is_alive
from deploy.local.program import Program, Programs, TcpReady
from deploy.local.stack import Stack
from tests.stack.test_supervisor import state_of, until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a file system")
    yield disk
    Stack(disk, services=[]).down()
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(b"x" * 4096)
    return filler


def test_too_little_room_is_told_with_figures_and_the_way_out(tmp_path: Path) -> None:
    environment = {"SLUICE_MIN_FREE_DISK_MB": "999999999"}
    with pytest.raises(
        StackError, match=r"nearly full: .* MB left, and the stack needs 999999999 MB"
    ):
        require_room(tmp_path, environment, first_start=True)
    require_room(tmp_path, {"SLUICE_MIN_FREE_DISK_MB": "0"}, first_start=True)
    with pytest.raises(StackError, match="must be a whole number of megabytes"):
        require_room(tmp_path, {"SLUICE_MIN_FREE_DISK_MB": "1G"}, first_start=True)


def test_running_out_of_room_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(StackError, match="The disk is full: there is no room left"),
        full_disk_named(tmp_path),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")


def test_another_failure_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), full_disk_named(tmp_path):
        (tmp_path / "absent").read_text()
    with pytest.raises(StackError, match="Caddy"), full_disk_named(tmp_path):
        raise StackError("Caddy does not understand deploy/Caddyfile.")


@pytest.mark.parametrize(
    "line",
    [
        'FATAL:  could not write lock file "postmaster.pid": No space left on device',
        "java.io.IOException: No space left on device",
        "OSError: [Errno 122] Disk quota exceeded",
    ],
)
def test_the_programs_words_for_it_are_understood(line: str) -> None:
    assert tells_of_full_disk(["before", line])


def test_a_start_on_a_small_disk_is_refused_before_anything_is_written(small_disk: Path) -> None:
    stack = Stack(small_disk, services=[], port_base=18000)
    with pytest.raises(StackError, match="nearly full"):
        stack.up()
    assert not (small_disk / "env").exists()


def test_a_start_that_fills_the_disk_says_so_and_leaves_nothing_running(small_disk: Path) -> None:
    given = {"SLUICE_MIN_FREE_DISK_MB": "1"}
    stack = Stack(small_disk, services=[], process_environment=given)
    with pytest.raises(StackError, match="The disk is full"):
        stack.up()
    assert stack.state() is None


def test_the_supervisor_outlives_a_full_disk(
    small_disk: Path, listener: Callable[..., Program]
) -> None:
    stack = Stack(small_disk, services=[])
    service = listener("service")
    ready = service.ready
    stack.write_programs(Programs(programs=[service]))
    stack.launch()
    stack.wait_until_running()
    before = state_of(stack, "service")
    filler = fill(small_disk)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    assert isinstance(ready, TcpReady)
    ended = before.identity
    until(lambda: ended is not None and not is_alive(ended))
    until(lambda: not is_free(ready.port))
    assert state_of(stack, "service") == before, "no room for the news"
    filler.unlink()
    until(lambda: state_of(stack, "service").restarts == 1)
    until(lambda: state_of(stack, "service").phase == "ready")
