"""Metering on a database of its own, attached to a log in memory, behind its HTTP interface."""

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Gate
from metering.world import PEPPER, Api, MemoryUsageLog, World, publish_tenant
from services.metering.app import build
from services.metering.forgotten import Memory
from services.metering.handlers import BATCH_HANDLERS, HANDLERS
from services.metering.progress import Progress


@pytest.fixture
async def metering(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[Database, None]:
    """The service's database, as its own role."""
    async with database.open("metering") as opened:
        log.add(opened, HANDLERS, batch_handlers=BATCH_HANDLERS, parks=False)
        yield opened


@pytest.fixture
async def world(metering: Database, log: MemoryLog) -> World:
    """The platform and two tenants, known to the directory."""
    platform = publish_tenant(log, "platform", ((),), tenant_id=PLATFORM_TENANT_ID, operator=True)
    acme = publish_tenant(
        log, "acme", (("usage:write", "usage:read", "billing:manage"), ("usage:read",))
    )
    globex = publish_tenant(log, "globex", (("usage:write", "usage:read", "billing:manage"),))
    await log.settle()
    return World(metering, log, MemoryUsageLog(log), platform, acme, globex)


@pytest.fixture
async def api(
    world: World, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncGenerator[Api, None]:
    monkeypatch.setenv("SLUICE_METERING_PORT", "8103")
    monkeypatch.setenv("SLUICE_METERING_POSTGRES", database.dsn("metering"))
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    app = build()
    directory = Directory(world.database)
    app.state.database, app.state.directory = world.database, directory
    app.state.gate = Gate(world.database, directory, PEPPER)
    app.state.usage_log, app.state.progress = world.usage_log, Progress()
    app.state.memory = Memory(world.database, tmp_path)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield Api(client, world)
