"""`sluice rebuild`: build a tenant's aggregates or books anew, and compare them with the live ones."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
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

USAGE_PATH = "/api/v1/usage/rebuilds"
LEDGER_PATH = "/api/v1/ledger/rebuilds"
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


class Mode(StrEnum):
    """Of which mode the books are."""

    TEST = "test"
    LIVE = "live"


@dataclass(frozen=True)
class Asked:
    """A rebuild to be asked for.

    Attributes:
        counted: what is counted while it goes on.
    """

    service: str
    path: str
    body: Mapping[str, str]
    query: Mapping[str, str]
    counted: str


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
    asked = Asked("metering", USAGE_PATH, {"source": source.value}, {}, "events counted anew")
    run = _ended(tenant, asked, quiet=as_json)
    if as_json:
        write_json(run)
    else:
        _show_usage(run)
    if run["state"] != "equal":
        raise typer.Exit(EXIT_FAILED)


@app.command()
def ledger(
    tenant: Annotated[str, typer.Option(help="Slug or id of the tenant.")],
    mode: Annotated[Mode, typer.Option(help="Of which mode the books are.")] = Mode.TEST,
    as_json: Json = False,
) -> None:
    """Build a tenant's books anew from their topics beside the live ones and compare them.

    Nothing live is changed. Exit code 1 when they differ.
    """
    asked = Asked("ledger", LEDGER_PATH, {}, {"mode": mode.value}, "records read anew")
    run = _ended(tenant, asked, quiet=as_json)
    if as_json:
        write_json(run)
    else:
        _show_ledger(run)
    if run["state"] != "equal":
        raise typer.Exit(EXIT_FAILED)


def _ended(tenant: str, asked: Asked, *, quiet: bool) -> dict[str, Any]:
    """The run when it has ended, well or not."""
    environment = _environment()
    with failures_told("`sluice status`"):
        try:
            return asyncio.run(_rebuild(environment, tenant, asked, quiet=quiet))
        except KeyboardInterrupt:
            err.print(f"It goes on by itself; its end is in the log of {asked.service}.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except StoryError as error:
            advice = f"`sluice status`, `sluice logs {asked.service}`"
            raise fail(str(error), advice=advice) from None


def _environment() -> Mapping[str, str]:
    """The origin and key to use: this machine's stack's, or the shell's."""
    stack = laptop_stack()
    environment = stack.environment() if stack.folders.env.exists() else os.environ
    for name in ("SLUICE_ORIGIN", "SLUICE_OPERATOR_KEY"):
        if not environment.get(name):
            raise fail(f"{name} is not set, and no stack runs here.", advice="`sluice up`")
    return environment


async def _rebuild(
    environment: Mapping[str, str], tenant: str, asked: Asked, *, quiet: bool
) -> dict[str, Any]:
    """The run when it has ended."""
    api = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"], tenant=tenant)
    try:
        with Progress(*COLUMNS, console=err, disable=quiet, transient=True) as bar:
            run: dict[str, Any] = await api.call(
                "POST", asked.path, json=asked.body, params=asked.query, expect=202
            )
            counting = bar.add_task(asked.counted, total=None)
            while run["state"] not in ENDED:
                await asyncio.sleep(POLL_SECONDS)
                run = await api.get(f"{asked.path}/{run['id']}", **asked.query)
                bar.update(
                    counting, completed=run["records_read"], total=run["records_expected"] or None
                )
            return run
    finally:
        await api.close()


def _show_usage(run: Mapping[str, Any]) -> None:
    if run["state"] == "failed":
        raise fail(str(run["error"]), advice="the archive's how-to, `docs/how-to/usage-archive.md`")
    out.print(f"{run['records_read']} events counted anew from the {run['source']}.")
    _show_tables(run["compared"])
    _show_end(run)


def _show_ledger(run: Mapping[str, Any]) -> None:
    if run["state"] == "failed":
        raise fail(str(run["error"]), advice="`docs/runbooks/SluiceLedgerRebuildDiffers.md`")
    found = run["found"]
    out.print(f"{run['records_read']} records read anew from the topics.")
    _show_tables(found["compared"])
    for fault in found["faults"]:
        out.print(f"  {escape(fault)}")
    if found["other_versions"]:
        out.print(
            f"{found['other_versions']} entries were made by another version of their rule; "
            f"today's would book {found['other_contents']} of them otherwise. No difference."
        )
    if found["set_aside"]:
        out.print(f"{found['set_aside']} events cannot be booked, and are in neither.")
    _show_end(run)


def _show_tables(compared: Mapping[str, Any]) -> None:
    table = Table("", "live", "rebuilt", "only live", "only rebuilt", box=None, pad_edge=False)
    for name, found in compared.items():
        counts = (found[side] for side in ("live", "rebuilt", "only_live", "only_rebuilt"))
        table.add_row(name, *map(str, counts))
    out.print(table)
    for name, found in compared.items():
        for side in ("live", "rebuilt"):
            for row in found[f"{side}_rows"]:
                out.print(f"  only {side}, {name}: {escape(row)}")


def _show_end(run: Mapping[str, Any]) -> None:
    out.print("[green]Equal.[/green]" if run["state"] == "equal" else "[red]They differ.[/red]")
