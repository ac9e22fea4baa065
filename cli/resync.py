"""`sluice resync`: list a Stripe account from end to end, and fetch what is missing or differs."""

import asyncio
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.api import Api, StoryError
from cli.terminal import (
    EXIT_INTERRUPTED,
    Json,
    err,
    fail,
    failures_told,
    laptop_stack,
    out,
    write_json,
)

PATH = "/api/v1/stripe/resync"
POLL_SECONDS = 0.5
COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())


def resync(
    tenant: Annotated[
        str | None,
        typer.Option(help="The account of this tenant (slug or id); the platform's by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List a Stripe account from end to end; what is missing here or differs is fetched again.

    It goes on by itself when this command is interrupted; run again, it follows the run under way.
    """
    environment = _environment()
    with failures_told("`sluice status`"):
        try:
            run = asyncio.run(_resync(environment, tenant, quiet=as_json))
        except KeyboardInterrupt:
            err.print("It goes on by itself; `sluice resync` follows it again.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except StoryError as error:
            raise fail(str(error), advice="`sluice status`, `sluice logs stripe_sync`") from None
    if as_json:
        write_json(run)
        return
    out.print(
        f"Stripe listed {run['listed']} objects of {run['stripe_account']}; "
        f"{run['marked']} were missing or differed and are being fetched."
    )


def _environment() -> Mapping[str, str]:
    """The origin and key to use: this machine's stack's, or the shell's."""
    stack = laptop_stack()
    environment = stack.environment() if stack.folders.env.exists() else os.environ
    for name in ("SLUICE_ORIGIN", "SLUICE_OPERATOR_KEY"):
        if not environment.get(name):
            raise fail(f"{name} is not set, and no stack runs here.", advice="`sluice up`")
    return environment


async def _resync(
    environment: Mapping[str, str], tenant: str | None, *, quiet: bool
) -> dict[str, Any]:
    """The run when it has ended."""
    api = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"], tenant=tenant)
    try:
        with Progress(*COLUMNS, console=err, disable=quiet, transient=True) as bar:
            run: dict[str, Any] = await api.post(PATH, {}, expect=202)
            listing = bar.add_task("listing", total=None)
            while run["state"] == "running":
                await asyncio.sleep(POLL_SECONDS)
                run = await api.get(f"{PATH}/{run['id']}")
                bar.update(listing, description=_progress(run))
            return run
    finally:
        await api.close()


def _progress(run: Mapping[str, Any]) -> str:
    """How far a run is, in a line."""
    open_steps = [step for step in run["steps"] if not step["done"]]
    what = open_steps[0]["object_type"].replace("_", " ") if open_steps else "the end"
    troubled = next((step["last_error"] for step in open_steps if step["last_error"]), None)
    waits = f"; waits: {troubled}" if troubled else ""
    return f"{run['listed']} listed, {run['marked']} missing or different; now {what}{waits}"
