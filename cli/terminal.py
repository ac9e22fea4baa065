"""What every command shares: where it writes, and how it ends."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deploy.local.errors import StackError
from deploy.local.folders import LAPTOP_ROOT
from deploy.local.ports import parse_port
from deploy.local.stack import Stack

Json = Annotated[bool, typer.Option("--json", help="One JSON document for programs.")]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def laptop_stack() -> Stack:
    """The stack in `.local`, as the present environment sets it up.

    SLUICE_LOCAL names another folder and SLUICE_PORT_BASE where its ports begin: a second stack
    beside the first.
    """
    base = os.environ.get("SLUICE_PORT_BASE")
    return Stack(
        Path(os.environ.get("SLUICE_LOCAL") or LAPTOP_ROOT),
        port_base=parse_port("SLUICE_PORT_BASE", base) if base else None,
        process_environment=os.environ,
    )


def next_step(sentence: str) -> None:
    """Say what to run next."""
    out.print(f"[dim]Next:[/dim] {sentence}")


def fail(message: str, details: tuple[str, ...] = (), advice: str = "") -> typer.Exit:
    """Say on the error stream what went wrong; the exit to raise."""
    err.print(f"[bold red]Failed:[/bold red] {escape(message)}")
    for line in details:
        err.print(f"  [dim]│[/dim] {escape(line)}")
    if advice:
        err.print(f"[dim]Next:[/dim] {advice}")
    return typer.Exit(EXIT_FAILED)


@contextmanager
def failures_told(advice: str = "") -> Iterator[None]:
    """Turn what the stack cannot do into a message and exit code 1."""
    try:
        yield
    except StackError as error:
        raise fail(str(error), error.details, advice) from None
    except OSError as error:
        raise fail(f"{error}", (), advice) from None


def write_json(value: Any) -> None:
    """One JSON document for machines, on the standard output."""
    print(json.dumps(value, indent=2))
