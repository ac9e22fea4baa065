"""A key is rotated while every service is called with it: nobody is refused, until it is revoked."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends

from libs.contracts.topics import EVERYBODY
from libs.directory import local
from libs.directory.local import Directory
from libs.observability.health import Health
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Access, Gate, Requires
from libs.web.serve import create_app
from tenants.conftest import PEPPER, World

KEYS = "/api/v1/api-keys"
ROTATIONS = 3

router = APIRouter()


@router.get("/usage")
async def read_usage(access: Annotated[Access, Depends(Requires("usage:read"))]) -> str:
    return str(access.tenant_id)


@pytest.fixture
async def services(
    world: World,  # noqa: ARG001 - the first on the log
    database: TestDatabase,
    log: MemoryLog,
) -> AsyncGenerator[dict[str, httpx.AsyncClient], None]:
    """A client of each service, all with their own copy of the directory."""
    clients = {}
    async with AsyncExitStack() as stack:
        for name in EVERYBODY:
            if name == "tenants":
                continue
            opened = await stack.enter_async_context(database.open(name))
            log.add(opened, {}, parks=False)
            app = create_app(name, health=Health(), routers=[router])
            app.state.gate = Gate(opened, Directory(opened), PEPPER)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://service")
            clients[name] = await stack.enter_async_context(client)
        await log.settle()
        yield clients


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def keep_settling(log: MemoryLog, settled: list[int], stopped: asyncio.Event) -> None:
    while not stopped.is_set():
        await log.settle()
        settled.append(len(settled))
        await asyncio.sleep(0.02)


async def test_nobody_is_refused_while_a_key_is_rotated(
    world: World, services: dict[str, httpx.AsyncClient], log: MemoryLog
) -> None:
    await world.sign_up("Acme")
    body = {"tenant": "acme", "name": "shop", "scopes": ["usage:read"], "mode": "test"}
    made = (await world.call("POST", KEYS, json=body)).json()
    valid, answers, going = [made["key"]], Counter[tuple[str, int]](), True

    async def use(name: str, client: httpx.AsyncClient, newest: bool) -> None:
        while going:
            key = valid[-1] if newest else valid[max(0, len(valid) - 2)]
            answer = await client.get("/usage", headers=bearer(key))
            answers[name, answer.status_code] += 1
            await asyncio.sleep(0.005)

    async def rotate(key_id: str) -> dict[str, Any]:
        answer = await world.client.post(
            f"{KEYS}/{key_id}/rotate",
            json={"overlap_seconds": 3600},
            headers=bearer(world.operator) | {"X-Tenant-ID": "acme"},
        )
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    settled, stopped = list[int](), asyncio.Event()
    settling = asyncio.create_task(keep_settling(log, settled, stopped))
    users = [
        asyncio.create_task(use(name, client, newest))
        for name, client in services.items()
        for newest in (True, False)
    ]

    async def everybody_asks(times: int) -> None:
        """Each service is called so many times more."""
        wanted = {name: answers[name, 200] + times for name in services}
        async with asyncio.timeout(60):
            while any(answers[name, 200] < often for name, often in wanted.items()):
                assert {status for _, status in answers} <= {200}
                await asyncio.sleep(0.01)

    ids = [made["id"]]
    for _ in range(ROTATIONS):
        await everybody_asks(5)
        made = await rotate(ids[-1])
        ids.append(made["id"])
        told = len(settled) + 2
        while len(settled) < told:
            await asyncio.sleep(0.02)
        valid.append(made["key"])
    await everybody_asks(5)
    going = False
    await asyncio.gather(*users)
    assert {status for _, status in answers} == {200}
    assert {name for name, _ in answers} == services.keys()

    first = f"{KEYS}/{ids[0]}"
    headers = bearer(world.operator) | {"X-Tenant-ID": "acme"}
    assert (await world.client.delete(first, headers=headers)).status_code == 204
    stopped.set()
    await settling
    await log.settle()
    await asyncio.sleep(local.CACHE_SECONDS)
    for client in services.values():
        assert (await client.get("/usage", headers=bearer(valid[0]))).status_code == 401
        assert (await client.get("/usage", headers=bearer(valid[1]))).status_code == 200
