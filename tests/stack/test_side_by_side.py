"""`make test` runs two halves at once: none is left out, and none fails or goes on unseen."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.local.folders import REPOSITORY
from tests.side_by_side import BESIDE, ENDING, halves, run


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_what_one_half_takes_the_other_leaves_and_nothing_else(tmp_path: Path) -> None:
    first, second = halves(["-m", "not bench"], tmp_path)
    both = [sys.executable, "-m", "pytest", "-m", "not bench"]
    left_out = [f"--ignore={folder}" for folder in BESIDE]
    assert first == [*both, f"--basetemp={tmp_path}/first", *left_out]
    assert second == [*both, f"--basetemp={tmp_path}/second", *BESIDE]
    for folder in BESIDE:
        assert list((REPOSITORY / folder).glob("test_*.py")), folder


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("0", "0", 0),
        ("1", "0", 1),
        ("0", "1", 1),
        ("1", "2", 2),
        ("5", "0", 0),
        ("1", "5", 1),
        ("5", "5", 5),
    ],
)
def test_a_failure_of_either_half_is_shown_and_is_one_of_both(
    first: str, second: str, code: int
) -> None:
    with tempfile.TemporaryFile() as out:
        ended = run(
            python(f"import sys; print('of the first', flush=True); sys.exit({first})"),
            python(f"import sys; print('of the second', file=sys.stderr); sys.exit({second})"),
            out,
        )
        out.seek(0)
        assert out.read().splitlines() == [b"of the first", b"of the second"]
    assert ended == code


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_both(number: signal.Signals, tmp_path: Path) -> None:
    """The signal is sent when both live; nothing of them is left when the command has ended.

    A terminal's Ctrl-C comes to everything in the foreground, other signals to the command alone.
    """
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    program = f"""
import sys
from tests.side_by_side import run
begin = "import os, signal; from pathlib import Path; pipe = Path({str(pipe)!r}); "
tells = begin + "print(os.getpid(), pipe.read_text(), flush=True); signal.pause()"
told = begin + "pipe.write_text(str(os.getpid())); signal.pause()"
sys.exit(run([sys.executable, "-c", tells], [sys.executable, "-c", told], sys.stdout.buffer))
"""
    with subprocess.Popen(
        python(program),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        pids = command.stdout.readline().split()
        if number == signal.SIGINT:
            os.killpg(command.pid, number)
        else:
            command.send_signal(number)
        command.communicate(timeout=30)
    assert command.returncode != 0
    assert len(pids) == 2
    for pid in pids:
        assert not Path("/proc", pid.decode()).exists()
