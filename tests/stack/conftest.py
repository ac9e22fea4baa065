"""Stacks of tiny programs: everything real but what is run."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.ports import scratch_port
from deploy.local.program import DoneReady, Program, Programs, Ready, TcpReady
from deploy.local.stack import Stack

LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""

MakeProgram = Callable[..., Program]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack in a folder of its own, stopped at the end whatever happened."""
    stack = Stack(tmp_path / "stack", services=[])
    yield stack
    stack.down()


@pytest.fixture
def listener(tmp_path: Path) -> MakeProgram:
    """Makes a program that listens on a port of its own."""

    def make(
        name: str, code: str = LISTEN, *, ready: Ready | None = None, **more: object
    ) -> Program:
        port = scratch_port()
        return Program.model_validate(
            {
                "name": name,
                "command": [sys.executable, "-S", "-c", code, str(port)],
                "folder": tmp_path,
                "environment": {"PATH": "/usr/bin:/bin"},
                "ready": ready or TcpReady(port=port),
                **more,
            }
        )

    return make


@pytest.fixture
def once(tmp_path: Path) -> MakeProgram:
    """Makes a program that runs to its end once."""

    def make(name: str, code: str, **more: object) -> Program:
        return Program.model_validate(
            {
                "name": name,
                "command": [sys.executable, "-S", "-c", code],
                "folder": tmp_path,
                "environment": {"PATH": "/usr/bin:/bin"},
                "ready": DoneReady(),
                **more,
            }
        )

    return make


@pytest.fixture
def run(stack: Stack) -> Callable[..., Stack]:
    """Starts these programs as the stack and waits until they are ready."""

    def start(*programs: Program) -> Stack:
        stack.write_programs(Programs(programs=list(programs)))
        stack.launch()
        stack.wait_until_running()
        return stack

    return start
