"""A tenants service on real Postgres, its outbox and consumers joined by a log in memory."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from libs.contracts.envelope import Envelope, Fact, Mode, wrap
from libs.contracts.tenants import TenantSnapshot
from libs.crypto import apikeys
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import EPOCH, MemoryLog
from libs.web.auth import Gate
from services.tenants import bootstrap, passwords
from services.tenants.app import build
from services.tenants.going_live import ITEM_KEYS
from services.tenants.handlers import HANDLERS
from services.tenants.settings import Settings
from tests.services.tenants.sandbox import sandbox, sandbox_process, stripe_world  # noqa: F401

PEPPER = b"p" * 32
ORIGIN = "http://127.0.0.1:8080"
OPERATOR_EMAIL = "operator@example.com"
OPERATOR_PASSWORD = "correct horse battery"


@dataclass
class World:
    """The service, its callers, and everything it said."""

    app: FastAPI
    client: httpx.AsyncClient
    database: Database
    log: MemoryLog
    operator: str
    settings: Settings
    keys: dict[str, str] = field(default_factory=dict)

    async def settle(self) -> None:
        """Until nothing moves and nothing failed; every look at the directory is fresh."""
        await self.log.settle()
        async with self.database.maintenance() as tx:
            assert await tx.fetch("select reason, detail from dead_letter") == []
        self.app.state.directory._cache.clear()

    async def call(
        self, method: str, path: str, *, key: str | None = None, **parts: Any
    ) -> httpx.Response:
        """A request of the operator, or of a key's owner; settled afterwards."""
        headers = {"Authorization": f"Bearer {key or self.operator}"} | parts.pop("headers", {})
        answer = await self.client.request(method, path, headers=headers, **parts)
        await self.settle()
        return answer

    async def sign_up(self, name: str, **fields: Any) -> dict[str, Any]:
        """A new tenant's body."""
        answer = await self.call("POST", "/api/v1/tenants", json={"name": name, **fields})
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def make_key(self, tenant: str, *scopes: str, mode: Mode = "test") -> str:
        """A key of a tenant, made by the operator."""
        body = {"tenant": tenant, "name": "test", "scopes": list(scopes), "mode": mode}
        answer = await self.call("POST", "/api/v1/api-keys", json=body)
        assert answer.status_code == 201, answer.text
        key: str = answer.json()["key"]
        return key

    async def go_live(self, tenant: str) -> None:
        """An operator opens live mode to a tenant, whatever is missing."""
        body = {"waive": [{"item": item, "reason": "a test"} for item in ITEM_KEYS]}
        answer = await self.call("POST", f"/api/v1/tenants/{tenant}/live", json=body)
        assert answer.status_code == 200, answer.text

    def tell(
        self, tenant_id: str | UUID, fact: Fact, *, mode: Mode = "test", source: str = "billing"
    ) -> Envelope[Any]:
        """Another service says something of a tenant."""
        event = wrap(
            fact,
            tenant_id=UUID(str(tenant_id)),
            mode=mode,
            source=source,
            effective_at=EPOCH,
        )
        self.log.publish(event)
        return event

    def snapshot(self, tenant_id: str | UUID) -> TenantSnapshot:
        """The newest record of a tenant on the directory's topic."""
        told = [e for e in self.log.events(TenantSnapshot) if e.tenant_id == UUID(str(tenant_id))]
        assert [e.data.version for e in told] == list(range(1, len(told) + 1))
        snapshot: TenantSnapshot = told[-1].data
        return snapshot


@pytest.fixture
def operator_key() -> str:
    """The first operator's key."""
    return apikeys.generate("test").key


@pytest.fixture
def environment(database: TestDatabase, monkeypatch: pytest.MonkeyPatch, operator_key: str) -> None:
    """The environment of a tenants process."""
    for name, value in {
        "SLUICE_TENANTS_PORT": "19080",
        "SLUICE_TENANTS_POSTGRES": database.dsn("tenants"),
        "SLUICE_KAFKA": "127.0.0.1:1",
        "SLUICE_ORIGIN": ORIGIN,
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
        "SLUICE_MASTER_KEYS": f"k1:{base64.b64encode(b'm' * 32).decode()}",
        "SLUICE_OPERATOR_EMAIL": OPERATOR_EMAIL,
        "SLUICE_OPERATOR_PASSWORD": OPERATOR_PASSWORD,
        "SLUICE_OPERATOR_KEY": operator_key,
        "SLUICE_STRIPE_CURRENCY": "EUR",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same argon2id with less work: these tests look at everything but its cost."""
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=1, memory_cost=1024))
    passwords._nobodys_hash.cache_clear()


@pytest.fixture
async def world(
    database: TestDatabase,
    log: MemoryLog,
    environment: None,  # noqa: ARG001 - read by the settings
    operator_key: str,
) -> AsyncGenerator[World, None]:
    """The built application, started: what must exist exists."""
    async with database.open("tenants") as opened:
        log.add(opened, HANDLERS, parks=False)
        app = build()
        settings = Settings()
        directory = Directory(opened)
        app.state.settings = settings
        app.state.database, app.state.directory = opened, directory
        app.state.gate = Gate(opened, directory, PEPPER, admits_before_live=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            world = World(app, client, opened, log, operator_key, settings)
            await bootstrap.run_once(opened, settings)
            await world.settle()
            yield world


async def checksums(database: TestDatabase) -> dict[str, str]:
    """A digest of every table of the schema that a replay must not change."""
    async with database.admin() as admin:
        tables = await admin.fetch(
            "select relname from pg_class where relnamespace = 'tenants'::regnamespace "
            "and relkind = 'r' and relname not in ('fence', 'inbox')"
        )
        found = {}
        for (table,) in tables:
            row = "to_jsonb(t) - 'sent_at'" if table == "outbox" else "to_jsonb(t)"
            found[table] = await admin.fetchval(
                f"select count(*) || md5(coalesce(string_agg(({row})::text, ',' "
                f"order by ({row})::text), '')) from tenants.{table} t"
            )
        return found
