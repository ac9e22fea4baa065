"""`sluice replay`: send archived webhooks again, and watch; or only see what that would change."""

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from cli.api import Api, StoryError
from cli.terminal import (
    EXIT_INTERRUPTED,
    Json,
    err,
    fail,
    failures_told,
    laptop_stack,
    next_step,
    out,
    write_json,
)

START = "/api/v1/webhook-events/replay"
PATH = "/api/v1/webhook-replays"
POLL_SECONDS = 0.5
NOTHING_SECONDS = 15.0
"""So long after the end of a dry run its first object has been entered, if it has any."""
STILL_SECONDS = 2.0
TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S"]

COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())


def replay(
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="An event's id, whe_…; may be given often.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Slug or id of one tenant; every tenant by default.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Type of event, such as invoice.paid.")
    ] = None,
    received_from: Annotated[
        datetime | None,
        typer.Option("--from", formats=TIME_FORMATS, help="Received at or after (UTC)."),
    ] = None,
    received_to: Annotated[
        datetime | None, typer.Option("--to", formats=TIME_FORMATS, help="Received before (UTC).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would change.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send archived webhooks again, oldest first; no effect happens twice by it.

    The replay goes on by itself when this command is interrupted.
    """
    environment = gateway_environment()
    wanted = {
        "ids": ids or None,
        "tenant_id": tenant,
        "type": kind,
        "received_from": _in_utc(received_from),
        "received_to": _in_utc(received_to),
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    with failures_told("`sluice status`"):
        try:
            told = asyncio.run(_replay(environment, body | {"dry_run": dry_run}, quiet=as_json))
        except KeyboardInterrupt:
            err.print(f"The replay goes on by itself; `POST {PATH}/{{id}}/cancel` ends it.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except StoryError as error:
            raise fail(str(error), advice="`sluice status`, `sluice logs gateway`") from None
    if as_json:
        write_json(told)
    else:
        _show(told)


def gateway_environment() -> Mapping[str, str]:
    """The origin and key to use: this machine's stack's, or the shell's."""
    stack = laptop_stack()
    environment = stack.environment() if stack.folders.env.exists() else os.environ
    for name in ("SLUICE_ORIGIN", "SLUICE_OPERATOR_KEY"):
        if not environment.get(name):
            raise fail(f"{name} is not set, and no stack runs here.", advice="`sluice up`")
    return environment


def _in_utc(at: datetime | None) -> str | None:
    return None if at is None else at.replace(tzinfo=UTC).isoformat()


async def _replay(
    environment: Mapping[str, str], body: dict[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """The replay when it has ended, and what a dry run found."""
    api = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    try:
        with Progress(*COLUMNS, console=err, disable=quiet, transient=True) as bar:
            run = await api.post(START, body, expect=202)
            sending = bar.add_task("events sent", total=None)
            while run["state"] == "running":
                await asyncio.sleep(POLL_SECONDS)
                run = await api.get(f"{PATH}/{run['id']}")
                bar.update(
                    sending,
                    completed=run["replayed"],
                    total=run["matched"] if run["counted"] else None,
                )
            if not run["dry_run"] or not run["replayed"]:
                return {"replay": run, "differences": None}
            return {"replay": run, "differences": await _differences(api, run, bar)}
    finally:
        await api.close()


async def _differences(api: Api, run: dict[str, Any], bar: Progress) -> dict[str, Any] | None:
    """What would change, once every object is compared; None where there was nothing to compare.

    The events are on their way when the run has ended: it is the end when nothing moves any more.
    """
    path = f"{PATH}/{run['id']}/differences"
    comparing = bar.add_task("objects compared", total=None)
    found: dict[str, Any] | None = None
    still_at = time.monotonic() + NOTHING_SECONDS
    while time.monotonic() < still_at or (found and found["pending"]):
        await asyncio.sleep(POLL_SECONDS)
        if await api.status_of("GET", path) == 404:
            continue
        now = await api.get(path, limit=200)
        if found is None or _ended(now) != _ended(found) or now["pending"] != found["pending"]:
            still_at = time.monotonic() + STILL_SECONDS
        found = now
        bar.update(comparing, completed=_ended(now), total=_ended(now) + now["pending"])
    while found and found["next_cursor"]:
        more = await api.get(path, limit=200, cursor=found["next_cursor"])
        found = more | {"items": found["items"] + more["items"]}
    return found


def _ended(found: dict[str, Any]) -> int:
    """How many objects are done with."""
    ended: int = found["checked"] + found["failed"]
    return ended


def _show(told: dict[str, Any]) -> None:
    run, found = told["replay"], told["differences"]
    verb = "tried" if run["dry_run"] else "sent again"
    out.print(f"{run['replayed']} of {run['matched']} events {verb}: {run['id']} {run['state']}.")
    if found is None:
        if run["dry_run"]:
            out.print("Nothing would change.")
        return
    out.print(
        f"{found['checked']} objects compared with Stripe, {found['different']} would change, "
        f"{found['failed']} could not be compared."
    )
    if found["items"]:
        table = Table("object", "id", "field", "now", "then", box=None, pad_edge=False)
        for item in found["items"]:
            for row in _rows(item):
                table.add_row(*(escape(text) for text in row))
        out.print(table)
    next_step("the same without --dry-run sends them.")


def _rows(item: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A line per field that would change, or the one that says why it is not known."""
    kind, object_id = item["object_type"], item["object_id"]
    if item["state"] == "failed":
        return [(kind, object_id, "", "", item["error"] or "")]
    return [
        (kind, object_id, name, _shown(change["before"]), _shown(change["after"]))
        for name, change in item["changes"].items()
    ]


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
