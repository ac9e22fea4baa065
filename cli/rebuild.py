"""`sluice rebuild metering`: build a tenant's aggregates anew, and compare them with the live ones."""

import asyncio
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from cli.api import Api, StoryError
from cli.terminal import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Json,
    err,
    fail,
    failures_told,
    laptop_stack,
    out,
    write_json,
)

PATH = "/api/v1/usage/rebuilds"
POLL_SECONDS = 0.5
COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
ENDED = frozenset({"equal", "different", "failed"})

app = typer.Typer(
    name="rebuild", help="Build what is kept anew from what came in.", no_args_is_help=True
)


class Source(StrEnum):
    """Where the usage is read from."""

    ARCHIVE = "archive"
    TOPIC = "topic"


@app.callback()
def rebuilds() -> None:
    """Build what is kept anew from what came in."""


@app.command()
def metering(
    tenant: Annotated[str, typer.Option(help="Slug or id of the tenant.")],
    source: Annotated[
        Source,
        typer.Option("--from", help="The archive and what came in since, or the topic alone."),
    ] = Source.ARCHIVE,
    as_json: Json = False,
) -> None:
    """Build a tenant's usage aggregates anew beside the live ones and compare them, byte by byte.

    Nothing live is changed. Exit code 1 when they differ.
    """
    environment = _environment()
    with failures_told("`sluice status`"):
        try:
            run = asyncio.run(_rebuild(environment, tenant, source, quiet=as_json))
        except KeyboardInterrupt:
            err.print("It goes on by itself; its end is in the log of metering.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except StoryError as error:
            raise fail(str(error), advice="`sluice status`, `sluice logs metering`") from None
    if as_json:
        write_json(run)
    else:
        _show(run)
    if run["state"] != "equal":
        raise typer.Exit(EXIT_FAILED)


def _environment() -> Mapping[str, str]:
    """The origin and key to use: this machine's stack's, or the shell's."""
    stack = laptop_stack()
    environment = stack.environment() if stack.folders.env.exists() else os.environ
    for name in ("SLUICE_ORIGIN", "SLUICE_OPERATOR_KEY"):
        if not environment.get(name):
            raise fail(f"{name} is not set, and no stack runs here.", advice="`sluice up`")
    return environment


async def _rebuild(
    environment: Mapping[str, str], tenant: str, source: Source, *, quiet: bool
) -> dict[str, Any]:
    """The run when it has ended."""
    api = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"], tenant=tenant)
    try:
        with Progress(*COLUMNS, console=err, disable=quiet, transient=True) as bar:
            run: dict[str, Any] = await api.post(PATH, {"source": source.value}, expect=202)
            counting = bar.add_task("events counted anew", total=None)
            while run["state"] not in ENDED:
                await asyncio.sleep(POLL_SECONDS)
                run = await api.get(f"{PATH}/{run['id']}")
                bar.update(
                    counting, completed=run["records_read"], total=run["records_expected"] or None
                )
            return run
    finally:
        await api.close()


def _show(run: Mapping[str, Any]) -> None:
    if run["state"] == "failed":
        raise fail(str(run["error"]), advice="the archive's how-to, `docs/how-to/usage-archive.md`")
    table = Table("", "live", "rebuilt", "only live", "only rebuilt", box=None, pad_edge=False)
    for name, found in run["compared"].items():
        counts = (found[side] for side in ("live", "rebuilt", "only_live", "only_rebuilt"))
        table.add_row(name, *map(str, counts))
    out.print(f"{run['records_read']} events counted anew from the {run['source']}.")
    out.print(table)
    for name, found in run["compared"].items():
        for side in ("live", "rebuilt"):
            for row in found[f"{side}_rows"]:
                out.print(f"  only {side}, {name}: {escape(row)}")
    out.print("[green]Equal.[/green]" if run["state"] == "equal" else "[red]They differ.[/red]")
