"""Reporting beside the ledger it reports on, both attached to a log in memory."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot, TenantStatus
from libs.crypto import apikeys
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Gate
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.reporting.app import build
from services.reporting.handlers import HANDLERS
from services.reporting.topics import TopicWatch
from tests.services.ledger.facts import START, Tenant

PEPPER = b"p" * 32


@pytest.fixture
async def reporting(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[Database, None]:
    """Reporting's database, as its own role; the ledger posts what it reports."""
    async with database.open("ledger") as ledger, database.open("reporting") as opened:
        log.add(ledger, LEDGER_HANDLERS, parks=True)
        log.add(opened, HANDLERS, parks=False)
        yield opened


@dataclass
class Api:
    """A client of the service, and the keys of the people who use it."""

    app: FastAPI
    client: httpx.AsyncClient
    operator: str
    acme_key: str
    globex_key: str
    acme: Tenant
    globex: Tenant

    async def get(self, path: str, key: str, headers: Any = None, **params: Any) -> httpx.Response:
        return await self.client.get(
            f"/api/v1/{path}", params=params, headers={"X-API-Key": key} | (headers or {})
        )


def publish_tenant(
    log: MemoryLog,
    tenant: Tenant,
    slug: str,
    scopes: tuple[str, ...] = ("billing:read",),
    *,
    plan: str | None = "pro",
    status: TenantStatus = "active",
) -> str:
    """Put a tenant with one API key into the directory; the key."""
    key = apikeys.generate("test")
    record = ApiKeyRecord(
        key_id=new_id(),
        prefix=key.prefix,
        key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
        mode="test",
        scopes=scopes,
        operator=tenant.id == PLATFORM_TENANT_ID,
    )
    snapshot = TenantSnapshot(
        version=1,
        slug=slug,
        name=slug,
        tenant_type="organization",
        status=status,
        currency="EUR",
        locale="en",
        self_customer_id=tenant.customer_id,
        plan_key=plan,
        api_keys=(record,),
    )
    log.publish(
        wrap(snapshot, tenant_id=tenant.id, mode=None, source="tenants", effective_at=START)
    )
    return key.key


@pytest.fixture
async def api(
    reporting: Database, log: MemoryLog, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Api, None]:
    monkeypatch.setenv("SLUICE_REPORTING_PORT", "8107")
    monkeypatch.setenv("SLUICE_REPORTING_POSTGRES", database.dsn("reporting"))
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    app = build()
    directory = Directory(reporting)
    app.state.database, app.state.directory = reporting, directory
    app.state.gate = Gate(reporting, directory, PEPPER)
    app.state.topic_watch = TopicWatch("127.0.0.1:1")
    acme, globex = Tenant(), Tenant()
    keys = (
        publish_tenant(log, Tenant(PLATFORM_TENANT_ID), "platform", ()),
        publish_tenant(log, acme, "acme"),
        publish_tenant(log, globex, "globex", plan=None, status="trialing"),
    )
    await log.settle()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield Api(app, client, *keys, acme, globex)
