"""Caddy as the stack runs it: the Caddyfile's placeholders filled in, reachable from here only."""

import json
from pathlib import Path

import pytest

from deploy.local import caddy
from deploy.local.environment import SERVICE_PORTS
from deploy.local.errors import StackError

VALUES = {"SLUICE_ORIGIN_PORT": "18080", "SLUICE_GATEWAY_PORT": "18101"}
CADDYFILE = """
http://localhost:{$SLUICE_ORIGIN_PORT} {
	reverse_proxy {$SLUICE_GATEWAY_UPSTREAM}
}
"""


@pytest.fixture
def caddyfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "Caddyfile"
    path.write_text(CADDYFILE)
    monkeypatch.setattr(caddy, "CADDYFILE", path)
    return path


@pytest.mark.usefixtures("caddyfile")
def test_placeholders_are_filled_in_and_nobody_else_is_let_in(tmp_path: Path) -> None:
    folder = tmp_path / "caddy"
    command = caddy.prepare(folder, caddy.environment(VALUES, folder))
    assert command[1:] == ["run", "--config", str(folder / "caddy.json")]
    configuration = json.loads((folder / "caddy.json").read_text())
    assert configuration["admin"]["disabled"] is True
    (server,) = configuration["apps"]["http"]["servers"].values()
    assert server["listen"] == ["127.0.0.1:18080"]
    assert '"127.0.0.1:18101"' in json.dumps(server)


def test_caddy_keeps_its_files_in_the_stack(tmp_path: Path) -> None:
    variables = caddy.environment(VALUES, tmp_path)
    homes = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    assert all(Path(variables[name]).is_relative_to(tmp_path) for name in homes)


def test_a_broken_caddyfile_is_told_with_caddys_words(caddyfile: Path, tmp_path: Path) -> None:
    caddyfile.write_text("nonsense {{")
    with pytest.raises(StackError, match="does not understand deploy/Caddyfile") as caught:
        caddy.prepare(tmp_path, caddy.environment(VALUES, tmp_path))
    assert "curly brace" in " ".join(caught.value.details)


@pytest.mark.skipif(not caddy.CADDYFILE.exists(), reason="there is no deploy/Caddyfile yet")
def test_the_projects_caddyfile_is_understood(tmp_path: Path) -> None:
    ports = {f"SLUICE_{name.upper()}_PORT": str(port) for name, port in SERVICE_PORTS.items()}
    values = {**ports, "SLUICE_ORIGIN_PORT": "18080"}
    caddy.prepare(tmp_path, caddy.environment(values, tmp_path))
