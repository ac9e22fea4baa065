"""`sluice rotate-keys`: a new master key, or a tenant's new data key, while everything goes on."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

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
from deploy.local.master_keys import add_master_key, keep_only

PATH = "/api/v1/key-rotations"
POLL_SECONDS = 0.5


def rotate_keys(
    tenant: Annotated[
        str | None,
        typer.Option(help="Rotate the data key of this tenant (slug or id), not the master key."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rotate the master key, or a tenant's data key; nothing stops meanwhile.

    On the laptop stack a new master key is made first, and the old ones are dropped in the end.
    Elsewhere put the new key in place yourself: docs/how-to/rotate-keys.md. Run again, it follows
    the rotation that is under way.
    """
    environment, file = _where()
    with failures_told("`sluice status`"):
        try:
            done = asyncio.run(_rotate(environment, tenant, file, quiet=as_json))
        except KeyboardInterrupt:
            err.print("The rotation goes on by itself; `sluice rotate-keys` shows it again.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except StoryError as error:
            raise fail(str(error), advice="`sluice status`, `sluice logs tenants`") from None
        dropped = keep_only(file, done["master_key_id"]) if file and tenant is None else []
    if as_json:
        write_json(done | {"dropped": dropped})
        return
    if tenant is not None:
        out.print(f"The data key of {tenant} is new; {done['done']} values were sealed anew.")
        return
    out.print(f"Everything is under the master key {done['master_key_id']}.")
    if dropped:
        out.print(f"Dropped: {', '.join(dropped)}.")
    next_step("keep a copy of the file of master keys in a safe place.")


def _where() -> tuple[Mapping[str, str], Path | None]:
    """The origin and key to use, and the file of master keys where it is this machine's stack's."""
    stack = laptop_stack()
    environment = stack.environment() if stack.folders.env.exists() else os.environ
    for name in ("SLUICE_ORIGIN", "SLUICE_OPERATOR_KEY"):
        if not environment.get(name):
            raise fail(f"{name} is not set, and no stack runs here.", advice="`sluice up`")
    file = environment.get("SLUICE_MASTER_KEYS_FILE")
    return environment, Path(file) if file == str(stack.folders.master_keys) else None


async def _rotate(
    environment: Mapping[str, str], tenant: str | None, file: Path | None, *, quiet: bool
) -> dict[str, Any]:
    api = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    try:
        state = await _under_way(api, tenant)
        if state is None:
            if tenant is None and file is not None:
                add_master_key(file)
            kind = {"kind": "master"} if tenant is None else {"kind": "data", "tenant": tenant}
            state = await api.call("POST", PATH, json=kind)
        return await _follow(api, state, quiet=quiet)
    finally:
        await api.close()


async def _under_way(api: Api, tenant: str | None) -> dict[str, Any] | None:
    """The rotation of this kind that is not done yet."""
    tenant_id = None
    if tenant is not None:
        tenant_id = (await api.call("GET", f"/api/v1/tenants/{tenant}"))["id"]
    found = await api.call("GET", PATH)
    for each in found["items"]:
        if each["tenant_id"] == tenant_id and each["state"] != "done":
            state: dict[str, Any] = each
            return state
    return None


async def _follow(api: Api, state: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Show how far it is until it is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=None)
        while state["state"] != "done":
            bar.update(
                task, total=state["total"], completed=state["done"], description=_words(state)
            )
            await asyncio.sleep(POLL_SECONDS)
            state = await api.call("GET", f"{PATH}/{state['id']}")
    return state


def _words(state: dict[str, Any]) -> str:
    if state["failure"]:
        return f"waits: {state['failure']}"
    if state["state"] == "sealing":
        return "wrapping data keys" if state["kind"] == "master" else "sealing values"
    if state["waiting_for_holders"]:
        return f"{state['waiting_for_holders']} tenants' secrets are on their way to the services"
    return "the old key is kept a minute for those who still use it"
