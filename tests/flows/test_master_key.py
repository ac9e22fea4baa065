"""The master key is rotated on the running stack by the command, and nobody notices."""

import asyncio
import json
import os
import subprocess
import sys

import asyncpg
import httpx
import pytest

from cli.api import Api, eventually
from deploy.local.folders import REPOSITORY
from deploy.local.stack import Stack
from libs.crypto.vaults.local import read_keyring
from libs.ids import new_id

pytestmark = pytest.mark.flow


def rotate(stack: Stack) -> subprocess.CompletedProcess[str]:
    """`sluice rotate-keys` for this run's stack."""
    shell = {n: v for n, v in os.environ.items() if not n.startswith(("SLUICE_", "STRIPE_"))}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "rotate-keys", "--json"],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=shell | {"SLUICE_LOCAL": str(stack.folders.root), "COLUMNS": "200"},
        timeout=200,
    )


async def connect(environment: dict[str, str], operator: Api) -> str:
    """A tenant with raw keys of an account of its own; its id."""
    name = f"Rotating {new_id().hex[-6:]}"
    tenant = await operator.post("/api/v1/tenants", {"name": name})
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=60) as sandbox:
        account = (await sandbox.post("/_sim/accounts", json={"name": name})).json()
    owner = Api(
        environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"], tenant=tenant["id"]
    )
    keys = {
        "stripe_secret_key": account["secret_key"],
        "stripe_publishable_key": account["publishable_key"],
    }
    await owner.post("/api/v1/billing/config", keys)
    await owner.close()
    found: str = tenant["id"]
    return found


async def test_the_command_rotates_the_master_key_while_people_sign_in(stack: Stack) -> None:
    environment = stack.environment()
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    tenant_id = await connect(environment, operator)
    admin = await asyncpg.connect(environment["SLUICE_POSTGRES"])

    async def held() -> bool:
        count = await admin.fetchval(
            "select count(*) from tenants.secrets_holder where tenant_id = $1::uuid", tenant_id
        )
        return bool(count == 2)

    await eventually("both services hold the tenant's secrets", held)
    before = read_keyring(stack.folders.master_keys)
    stop = asyncio.Event()
    signed_in = 0

    async def sign_in() -> None:
        nonlocal signed_in
        headers = {"Origin": environment["SLUICE_ORIGIN"]}
        body = {
            "email": environment["SLUICE_OPERATOR_EMAIL"],
            "password": environment["SLUICE_OPERATOR_PASSWORD"],
        }
        async with httpx.AsyncClient(
            base_url=environment["SLUICE_ORIGIN"], headers=headers, timeout=30
        ) as browser:
            assert (await browser.post("/api/v1/session", json=body)).status_code == 201
            while not stop.is_set():
                answer = await browser.post("/api/v1/session/assertion", json={})
                assert answer.status_code == 200, answer.text
                signed_in += 1
                await asyncio.sleep(0.05)

    async def signs_in(times: int) -> None:
        """They do so many times more, unless they are refused."""
        wanted = signed_in + times
        while signed_in < wanted and not browsing.done():
            await asyncio.sleep(0.05)

    browsing = asyncio.create_task(sign_in())
    try:
        await signs_in(1)
        done = await asyncio.to_thread(rotate, stack)
        await signs_in(6)
    finally:
        stop.set()
        await browsing
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["state"] == "done"
    assert told["done"] == told["total"] >= 2
    assert told["dropped"] == list(before.keys)
    after = read_keyring(stack.folders.master_keys)
    assert list(after.keys) == [told["master_key_id"]]
    ids = await admin.fetch("select distinct master_key_id from tenants.data_key")
    assert [row[0] for row in ids] == [after.current_id]
    # Both holders open with the new key what was told anew.
    version = await admin.fetchval(
        "select version from tenants.secrets_version where tenant_id = $1::uuid", tenant_id
    )
    for service in ("gateway", "stripe_sync"):
        assert version == await admin.fetchval(
            f"select version from {service}.tenant_secrets where tenant_id = $1::uuid", tenant_id
        )
    await admin.close()
    await operator.close()
