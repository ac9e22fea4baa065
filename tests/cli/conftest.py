"""The `sluice` command as a process of its own, on a stack in a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.folders import REPOSITORY
from deploy.local.ports import scratch_port
from deploy.local.stack import Stack

Sluice = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Path]:
    """The folder of the stack; whatever was started in it is stopped at the end."""
    folder = tmp_path / "local"
    yield folder
    Stack(folder, services=[]).down()


@pytest.fixture
def sluice(local: Path) -> Sluice:
    """Runs the command with these arguments and variables."""
    base = str(scratch_port())

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        shell = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLUICE_", "STRIPE_"))
        }
        place = {"SLUICE_LOCAL": str(local), "SLUICE_PORT_BASE": base}
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**shell, **place, "COLUMNS": "200", **variables},
            timeout=240,
        )

    return run
