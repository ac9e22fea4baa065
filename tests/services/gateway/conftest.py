"""A gateway on real Postgres, and a sender that signs as Stripe does."""

import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, StripeIds, TenantSnapshot
from libs.crypto import apikeys
from libs.db.pool import Database
from libs.directory.apply import apply_snapshot
from libs.directory.local import Directory
from libs.directory.secrets import Secrets
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.web.auth import Gate
from services.gateway.app import build
from services.gateway.arrivals import Arrivals
from services.gateway.settings import Settings
from services.gateway.signature import sign

PEPPER, MASTER_KEY = b"p" * 32, b"m" * 32
CURRENT, PREVIOUS, CONNECT = b"whsec_current", b"whsec_previous", b"whsec_connect"
URL = "/api/webhooks/stripe"
ACME = UUID("0192aaaa-0000-7000-8000-000000000001")
GLOBEX = UUID("0192aaaa-0000-7000-8000-000000000002")
ACME_CUSTOMER = "cus_acme"


@dataclass
class Gateway:
    """A gateway and its callers."""

    app: FastAPI
    client: httpx.AsyncClient
    database: Database
    keys: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        event: Any,
        *,
        secret: bytes = CURRENT,
        header: bytes | None = None,
        at: int = 0,
        url: str = URL,
    ) -> httpx.Response:
        """Post an event (an object, or raw bytes) signed `at` seconds from now."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        signed = header or sign(secret, body, int(utc_now().timestamp()) + at)
        return await self.client.post(url, content=body, headers={"stripe-signature": signed})

    async def get(self, path: str, who: str, **params: Any) -> httpx.Response:
        """Read as somebody."""
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return await self.client.get(path, headers=headers, params=params or None)

    async def post(self, path: str, who: str, body: Any) -> httpx.Response:
        """Write as somebody."""
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return await self.client.post(path, headers=headers, json=body)

    async def count(self, table: str) -> int:
        """Rows of a table, over all tenants."""
        async with self.database.maintenance() as tx:
            return int(await tx.fetchval(f"select count(*) from {table}"))

    async def archived(self) -> list[Any]:
        """Everything in the archive, oldest first."""
        async with self.database.maintenance() as tx:
            return await tx.fetch("select * from webhook_event order by received_at, id")

    async def published(self) -> list[Any]:
        """Everything that goes to `stripe.events`."""
        async with self.database.maintenance() as tx:
            rows = await tx.fetch(
                "select tenant_id, mode, payload from outbox where topic = 'stripe.events' "
                "order by id"
            )
        return [(row["tenant_id"], row["mode"], json.loads(row["payload"])) for row in rows]

    async def told(self, event_type: str) -> list[Any]:
        """(tenant, event) of everything of a type that goes to `audit.events`."""
        async with self.database.maintenance() as tx:
            rows = await tx.fetch(
                "select tenant_id, payload from outbox where event_type = $1 order by id",
                event_type,
            )
        return [(row["tenant_id"], json.loads(row["payload"])) for row in rows]


def snapshot_event(**changes: Any) -> dict[str, Any]:
    """An `invoice.paid` of acme's customer as Stripe sends it."""
    event = {
        "id": f"evt_{new_id().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": 1_790_000_000,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": "invoice.paid",
        "data": {"object": {"id": "in_1", "object": "invoice", "customer": ACME_CUSTOMER}},
    }
    return {**event, **changes}


def about(**subject: Any) -> dict[str, Any]:
    """An event about this object."""
    return snapshot_event(data={"object": {"id": "in_1", "object": "invoice", **subject}})


async def enrol(
    database: Database,
    tenant_id: UUID,
    slug: str,
    key: apikeys.ApiKey | None,
    *,
    operator: bool = False,
    customers: tuple[str, ...] = (),
    scopes: tuple[str, ...] = ("billing:manage",),
) -> None:
    """Put a tenant into the directory, with a test key."""
    records = (
        ()
        if key is None
        else (
            ApiKeyRecord(
                key_id=new_id(),
                prefix=key.prefix,
                key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
                mode="test",
                scopes=scopes,
                operator=operator,
            ),
        )
    )
    snapshot = TenantSnapshot(
        version=1,
        slug=slug,
        name=slug,
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        api_keys=records,
        stripe=(StripeIds(mode="test", customer_ids=customers),) if customers else (),
    )
    event = wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=utc_now())
    async with database.tenant(tenant_id, None) as tx:
        await apply_snapshot(event, tx)


async def enrol_parties(database: Database) -> dict[str, str]:
    """Those the tests are about; their keys."""
    keys = {name: apikeys.generate("test") for name in ("operator", "acme", "globex", "weak")}
    await enrol(database, PLATFORM_TENANT_ID, "platform", keys["operator"], operator=True)
    await enrol(database, ACME, "acme", keys["acme"], customers=(ACME_CUSTOMER,))
    await enrol(database, GLOBEX, "globex", keys["globex"])
    await enrol(database, new_id(), "weak", keys["weak"], scopes=("usage:write",))
    return {name: key.key for name, key in keys.items()}


@pytest.fixture
def environment(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a gateway process."""
    for name, value in {
        "SLUICE_GATEWAY_PORT": "19060",
        "SLUICE_GATEWAY_POSTGRES": database.dsn("gateway"),
        "SLUICE_KAFKA": "127.0.0.1:1",
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
        "SLUICE_MASTER_KEYS": f"k1:{base64.b64encode(MASTER_KEY).decode()}",
        "STRIPE_SECRET_KEY": "sk_test_x",
        "STRIPE_WEBHOOK_SECRET": CURRENT.decode(),
        "STRIPE_WEBHOOK_SECRET_PREVIOUS": PREVIOUS.decode(),
        "STRIPE_CONNECT_WEBHOOK_SECRET": CONNECT.decode(),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def gateway(
    database: TestDatabase,
    environment: None,  # noqa: ARG001 - read by the settings
) -> AsyncGenerator[Gateway, None]:
    """The built application over a database, without its consumers and relay."""
    async with database.open("gateway") as opened:
        app = build()
        directory = Directory(opened)
        app.state.database, app.state.directory = opened, directory
        app.state.gate = Gate(opened, directory, PEPPER)
        settings = Settings()
        app.state.endpoint_secrets = settings.endpoint_secrets()
        app.state.secrets = Secrets(opened, settings.sealing)
        app.state.arrivals = Arrivals(opened)
        app.state.spool = settings.spool(opened)
        app.state.tenant_rates = settings.tenant_rates()
        keys = await enrol_parties(opened)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield Gateway(app, client, opened, keys)
