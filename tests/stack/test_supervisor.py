"""The supervisor on real processes: order, crashes, leftovers, the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.errors import StackError
from deploy.local.logs import SIZE_BYTES_MAX
from deploy.local.process import ProcessIdentity, identify, is_alive
from deploy.local.program import Program, ProgramState, TcpReady
from deploy.local.stack import Stack

# A listener with a child that ignores SIGTERM.
WITH_CHILDREN = """
import os, signal, socket, subprocess, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-S", "-c", stubborn])
print("child", child.pid, flush=True)
while True:
    server.accept()
"""


def state_of(stack: Stack, name: str) -> ProgramState:
    state = stack.state()
    assert state is not None
    return next(program for program in state.programs if program.name == name)


def until(
    condition: Callable[[], bool],
    seconds: float = 60,
    otherwise: Callable[[], str] = lambda: "it did not come true in time",
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)


def identities(stack: Stack) -> list[ProcessIdentity]:
    state = stack.state()
    assert state is not None
    return [state.supervisor, *(each.identity for each in state.programs if each.identity)]


def child_of(stack: Stack, name: str) -> ProcessIdentity:
    log = stack.folders.log(name)
    # A program listens before it has said everything.
    until(lambda: log.read_text().endswith("\n"))
    identity = identify(int(log.read_text().split()[-1]))
    assert identity is not None
    return identity


def test_programs_start_in_the_order_of_their_stages(
    run: Callable[..., Stack], listener: Callable[..., Program], once: Callable[..., Program]
) -> None:
    server = listener("server")
    assert isinstance(server.ready, TcpReady)
    connect = f"import socket; socket.create_connection(('127.0.0.1', {server.ready.port}))"
    stack = run(server, once("deploy", connect, stage=1), listener("service", stage=2))
    assert [state_of(stack, each).phase for each in ("server", "deploy", "service")] == [
        "ready",
        "done",
        "ready",
    ]


def test_down_leaves_no_process_and_no_state(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    stack = run(listener("a", WITH_CHILDREN), listener("b", stage=1))
    everything = [*identities(stack), child_of(stack, "a")]
    assert all(is_alive(identity) for identity in everything)
    assert stack.down() is True
    assert not any(is_alive(identity) for identity in everything)
    assert stack.state() is None
    assert stack.down() is False


def test_a_crashed_program_is_restarted_and_the_restart_shown(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    stack = run(listener("service"))
    before = state_of(stack, "service")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: state_of(stack, "service").restarts == 1)
    until(lambda: state_of(stack, "service").phase == "ready")
    after = state_of(stack, "service")
    assert after.pid != before.pid
    assert after.last_exit == "killed by SIGKILL"


def test_the_whole_old_group_is_ended_before_a_restart(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    stack = run(listener("service", WITH_CHILDREN))
    child, pid = child_of(stack, "service"), state_of(stack, "service").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: state_of(stack, "service").restarts == 1)
    assert not is_alive(child)


def test_a_program_that_ends_well_by_itself_is_started_again(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); s.accept(); s.accept()"
    stack = run(listener("service", code))
    until(lambda: state_of(stack, "service").restarts >= 1)
    assert state_of(stack, "service").last_exit == "exit code 0"


@pytest.fixture
def orphaned(run: Callable[..., Stack], listener: Callable[..., Program]) -> Stack:
    """A stack whose supervisor was killed while its programs go on."""
    stack = run(listener("a", WITH_CHILDREN), listener("b"))
    state = stack.state()
    assert state is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    until(lambda: not is_alive(state.supervisor))
    return stack


def test_down_ends_what_a_killed_supervisor_left(orphaned: Stack) -> None:
    everything = [*identities(orphaned), child_of(orphaned, "a")]
    assert sum(is_alive(identity) for identity in everything) == 3
    assert orphaned.down() is True
    assert not any(is_alive(identity) for identity in everything)


def test_a_recorded_pid_that_belongs_to_somebody_else_now_is_left_alone(orphaned: Stack) -> None:
    state = orphaned.state()
    assert state is not None
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as other:
        mine = identify(other.pid)
        assert mine is not None
        stale = ProcessIdentity(mine.pid, mine.started_ticks - 1, mine.boot_id)
        state.programs.append(ProgramState(name="reused", identity=stale))
        orphaned.folders.state.write_text(state.model_dump_json())
        orphaned.down()
        assert is_alive(mine)
        other.communicate(b"\n")


def test_a_second_supervisor_of_the_same_stack_gives_up(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    stack = run(listener("service"))
    before = identities(stack)
    stack.launch()
    until(lambda: "already running" in stack.folders.log("supervisor").read_text())
    assert identities(stack) == before
    assert all(is_alive(identity) for identity in before)


def test_a_failed_start_names_the_program_shows_its_words_and_leaves_nothing(
    stack: Stack,
    run: Callable[..., Stack],
    listener: Callable[..., Program],
    once: Callable[..., Program],
) -> None:
    with pytest.raises(StackError, match="deploy ended while starting: exit code 3") as caught:
        run(
            listener("server"),
            once("deploy", "print('set SLUICE_POSTGRES'); raise SystemExit(3)", stage=1),
            listener("never", stage=2),
        )
    assert caught.value.details == ("set SLUICE_POSTGRES",)
    state = stack.state()
    assert state is not None
    assert state.phase == "failed"
    assert {each.name: each.phase for each in state.programs} == {
        "server": "stopped",
        "deploy": "stopped",
        "never": "stopped",
    }
    assert not is_alive(state.supervisor)


def test_a_program_that_keeps_crashing_ends_the_start(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    with pytest.raises(StackError, match="service ended 3 times while starting: exit code 1"):
        run(listener("service", "raise SystemExit('no such setting')"))


def test_a_program_that_is_not_ready_in_time_ends_the_start(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    with pytest.raises(StackError, match=r"service was not ready within 0\.5 s"):
        run(listener("service", "import time; time.sleep(60)", start_seconds=0.5))


def test_a_command_that_cannot_be_run_ends_the_start(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    program = listener("service").model_copy(update={"command": ["/nonexistent/program"]})
    with pytest.raises(StackError, match=r"could not be started: .*No such file"):
        run(program)


def test_a_start_that_found_the_disk_full_says_so(
    run: Callable[..., Stack], once: Callable[..., Program]
) -> None:
    write = "open('/dev/full', 'w').write('x' * 100000)"
    with pytest.raises(StackError, match="The disk is full"):
        run(once("deploy", write))


def test_a_log_that_grows_too_long_is_cut_while_it_is_written(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    chatter = (
        "import socket, sys, time\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        f"print('x' * {SIZE_BYTES_MAX + 1}, flush=True)\n"
        "while True:\n    print('after', flush=True); time.sleep(0.05)\n"
    )
    stack = run(listener("service", chatter))
    log = stack.folders.log("service")
    until(lambda: log.with_name("service.log.1").exists() and log.stat().st_size < 10_000)
    until(lambda: log.read_text().endswith("after\n"))


def test_a_program_is_told_to_stop_and_may_take_its_time(
    tmp_path: Path, run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    graceful = (
        "import pathlib, signal, socket, sys, time\n"
        "def stop(*_):\n"
        f"    time.sleep(0.3); pathlib.Path({str(tmp_path / 'drained')!r}).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: server.accept()\n"
    )
    run(listener("service", graceful)).down()
    assert (tmp_path / "drained").exists()


def test_a_program_that_does_not_stop_is_killed(
    run: Callable[..., Stack], listener: Callable[..., Program]
) -> None:
    stubborn = (
        "import signal, socket, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: server.accept()\n"
    )
    stack = run(listener("service", stubborn, stop_seconds=0.5))
    everything = identities(stack)
    stack.down()
    assert not any(is_alive(identity) for identity in everything)
