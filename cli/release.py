"""`sluice release`: let a webhook go that is kept aside; or only see what that would do."""

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.api import Api, StoryError
from cli.replay import gateway_environment
from cli.terminal import Json, fail, failures_told, next_step, out, write_json

WHAT_BECAME = {
    "stored": "is published to tenant {tenant_id}",
    "duplicate": "had come before: nothing is published",
    "quarantined": "waits until somebody connects {account}, or until it is assigned",
}


def release(
    event: Annotated[str, typer.Argument(help="The event's id, whe_….")],
    why: Annotated[str, typer.Option(help="The reason, for the audit log.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; tell what would become of it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a webhook go that is kept aside: it is taken in as what it says it is, once."""
    environment = gateway_environment()
    api = (environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    with failures_told("`sluice status`"):
        try:
            told = asyncio.run(_release(*api, event, {"why": why, "dry_run": dry_run}))
        except StoryError as error:
            raise fail(str(error), advice="`sluice status`, `sluice logs gateway`") from None
    if as_json:
        write_json(told)
        return
    became = WHAT_BECAME[told["outcome"]].format(**told)
    out.print(f"{'Dry run: it' if dry_run else 'It'} {became} ({told['mode']} mode).")
    if dry_run:
        next_step("The same without `--dry-run` does it.")


async def _release(origin: str, key: str, event: str, body: dict[str, Any]) -> dict[str, Any]:
    api = Api(origin, key)
    try:
        told: dict[str, Any] = await api.post(
            f"/api/v1/webhook-events/{quote(event, safe='')}/release", body, expect=200
        )
    finally:
        await api.close()
    return told
