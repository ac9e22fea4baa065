"""Callers of the HTTP interface: an operator, tenants' keys, and a client on the service itself."""

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from ledger.facts import START, Tenant
from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot
from libs.crypto import apikeys
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Gate
from services.ledger.app import build
from services.ledger.coalescing import Coalescer

PEPPER = b"p" * 32


def publish_tenant(
    log: MemoryLog,
    tenant_id: UUID,
    slug: str,
    scopes: tuple[str, ...] = (),
    *,
    operator: bool = False,
    version: int = 1,
) -> str:
    """Put a tenant with one API key into the directory; the key."""
    key = apikeys.generate("test")
    record = ApiKeyRecord(
        key_id=new_id(),
        prefix=key.prefix,
        key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
        mode="test",
        scopes=scopes,
        operator=operator,
    )
    snapshot = TenantSnapshot(
        version=version,
        slug=slug,
        name=slug,
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        api_keys=(record,),
    )
    log.publish(
        wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=START)
    )
    return key.key


@dataclass
class Api:
    """A client of the service, and the keys of the people who use it."""

    client: httpx.AsyncClient
    operator: str
    acme: str
    globex: str
    usage_only: str
    poster: str
    acme_tenant: Tenant
    poster_tenant: Tenant

    async def post(self, path: str, key: str, body: Any, headers: Any = None) -> httpx.Response:
        return await self.client.post(
            f"/api/v1/ledger/{path}", json=body, headers={"X-API-Key": key} | (headers or {})
        )

    async def get(self, path: str, key: str, headers: Any = None, **params: Any) -> httpx.Response:
        return await self.client.get(
            f"/api/v1/ledger/{path}", params=params, headers={"X-API-Key": key} | (headers or {})
        )


@asynccontextmanager
async def open_api(
    ledger: Database, log: MemoryLog, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Api, None]:
    """The service with a little money in its books, and callers that know nothing of each other."""
    monkeypatch.setenv("SLUICE_LEDGER_PORT", "8106")
    monkeypatch.setenv("SLUICE_LEDGER_POSTGRES", database.dsn("ledger"))
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    app = build()
    directory = Directory(ledger)
    app.state.database, app.state.directory = ledger, directory
    app.state.gate = Gate(ledger, directory, PEPPER)
    app.state.coalescer = Coalescer(ledger)
    acme, globex, initech, hooli = Tenant(), Tenant(), Tenant(), Tenant()
    keys = (
        publish_tenant(log, PLATFORM_TENANT_ID, "platform", operator=True),
        publish_tenant(log, acme.id, "acme", ("ledger:read",)),
        publish_tenant(log, globex.id, "globex", ("billing:manage",)),
        publish_tenant(log, initech.id, "initech", ("usage:write",)),
        publish_tenant(log, hooli.id, "hooli", ("ledger:post",)),
    )
    for event in (
        acme.invoice({"flat": 4900}),
        acme.payment(4900),
        acme.transaction("charge", 4900, 172),
        acme.payment(1000, collected_by="tenant", account="acct_1", stripe_invoice_id=None),
        globex.invoice({"flat": 100}, currency="USD"),
        globex.payment(50, stripe_invoice_id=None),
    ):
        log.publish(event)
    await log.settle()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield Api(client, *keys, acme, hooli)
