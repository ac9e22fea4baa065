"""The file `.local/env`: one `NAME=value` a line, readable by a shell and by a plain parser."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.folders import write_atomically

HEADER = "# Every variable of this stack, secrets included: keep it to yourself. Written by `sluice up`.\n"
SET_BY_USER = "# set by you: "
# What a shell takes literally in an assignment; plain parsers would take quotes for part of a value.
BARE = re.compile(r"[A-Za-z0-9_@%+=:,./?-]*")


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a stack.

    Attributes:
        values: name -> value.
        set_by_user: the names whose values came from the user's environment, not from us.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    set_by_user: frozenset[str] = frozenset()

    def explicit(self, process_environment: Mapping[str, str]) -> dict[str, str]:
        """What the user sets in `process_environment`.

        A value equal to this file's does not count, so that a shell which has read the file does
        not turn our choices into the user's; what was the user's stays the user's.
        """
        return {
            name: value
            for name, value in process_environment.items()
            if self.values.get(name) != value or name in self.set_by_user
        }


def read_env(path: Path) -> EnvFile:
    """Read the file; an absent one is empty.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return EnvFile()
    values: dict[str, str] = {}
    set_by_user: frozenset[str] = frozenset()
    for line in lines:
        if line.startswith(SET_BY_USER):
            set_by_user = frozenset(line.removeprefix(SET_BY_USER).split())
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values[name] = "".join(shlex.split(value))
    return EnvFile(values, set_by_user)


def write_env(path: Path, env: EnvFile) -> None:
    """Write the file, mode 0600.

    Raises:
        OSError: it cannot be written; the old one is intact.
    """
    lines = [
        f"{name}={value if BARE.fullmatch(value) else shlex.quote(value)}"
        for name, value in env.values.items()
    ]
    if env.set_by_user:
        lines.append(SET_BY_USER + " ".join(sorted(env.set_by_user)))
    write_atomically(path, HEADER + "\n".join(lines) + "\n", mode=0o600)
