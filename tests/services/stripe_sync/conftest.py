"""stripe_sync on real Postgres against the real sandbox, with a log in memory in place of Kafka."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import stripe
from fastapi import FastAPI

from deploy.local.ports import scratch_port
from libs.clock import from_unix, utc_now
from libs.contracts.billing import FlatPrice, PlanPublished
from libs.contracts.envelope import Fact, wrap
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot
from libs.crypto import apikeys
from libs.crypto.data_keys import DataKeys
from libs.crypto.keyring import Keyring
from libs.crypto.personal import PersonalKeys
from libs.crypto.settings import Sealing
from libs.crypto.vaults.local import LocalMasterKeys
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.directory.secrets import Secrets
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Gate
from services.stripe_sync import store_marks
from services.stripe_sync.app import build
from services.stripe_sync.client import StripeApi
from services.stripe_sync.clocks import ClockWorker
from services.stripe_sync.commands import CommandWorker
from services.stripe_sync.connections import ConnectionWatch
from services.stripe_sync.customers import CustomerLinks
from services.stripe_sync.handlers import HANDLERS
from services.stripe_sync.identities import Identities, Shared, Wire, open_identities
from services.stripe_sync.jobs import leave_unclaimed
from services.stripe_sync.refresh import AccountWorker, rest
from services.stripe_sync.settings import API_VERSION, Settings

ROOT = Path(__file__).resolve().parents[3]
PEPPER, MASTER_KEY = b"p" * 32, b"m" * 32
GOOD_CARD, DECLINED_LATER = "4242424242424242", "4000000000000341"
SETTLE_SECONDS = 60
OWNER_USER_ID = UUID("01890000-0000-7000-8000-00000000000a")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the SDK upload its form as httpx 0.28 deprecates, or every POST would fail."""
    allowed = "ignore:Use 'content=<...>':DeprecationWarning"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(allowed))


@dataclass
class Sandbox:
    """The sandbox as a program of its own."""

    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def pay(self, session_id: str, card: str = GOOD_CARD) -> None:
        """Pay a checkout page."""
        answer = self.client.post(f"/_sim/checkout/{session_id}/pay", json={"card": card})
        assert answer.status_code == 200, answer.text

    def fault(self, **fault: Any) -> None:
        """Switch a fault on."""
        answer = self.client.post("/_sim/faults", json=fault)
        assert answer.status_code < 300, answer.text

    def mend(self) -> None:
        """Switch all faults off."""
        self.client.delete("/_sim/faults")

    def get(self, path: str, key: str, **params: Any) -> Any:
        """Read from Stripe's API."""
        headers = {"authorization": f"Bearer {key}"}
        answer = self.client.get(path, headers=headers, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, key: str) -> list[dict[str, Any]]:
        """All events of the account, oldest first."""
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.get("/v1/events", key, limit=100, **after)
            found += page["data"]
            if not page["has_more"]:
                return found[::-1]
            after = {"starting_after": page["data"][-1]["id"]}


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    """One sandbox for the run; each test works with an account of its own."""
    port = scratch_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "SLUICE_STRIPE_SIM_PORT": str(port),
        "STRIPE_SIM_URL": url,
        "STRIPE_SECRET_KEY": "sk_test_sync",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.stripe_sim.app"], cwd=ROOT, env=environment
    )
    client = httpx.Client(base_url=url, timeout=60)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.get("/healthz")
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the sandbox does not come up"
            time.sleep(0.1)
    yield Sandbox(url, process, client)
    client.close()
    process.send_signal(signal.SIGTERM)
    process.wait(60)


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Iterator[Sandbox]:
    """The sandbox, empty and without faults."""
    sandbox_process.client.post("/_sim/reset")
    yield sandbox_process
    sandbox_process.mend()


@dataclass
class Tenant:
    """A tenant of the tests."""

    id: UUID
    slug: str
    key: str
    customer_id: UUID


@dataclass
class World:
    """stripe_sync with its log, its workers, its HTTP, and the sandbox behind it."""

    database: Database
    test_database: TestDatabase
    log: MemoryLog
    sandbox: Sandbox
    identities: Identities
    app: FastAPI
    http: httpx.AsyncClient
    key: str
    watch: ConnectionWatch
    tenants: dict[str, Tenant] = field(default_factory=dict)

    @property
    def api(self) -> StripeApi:
        api = self.identities.platform("test")
        assert api is not None
        return api

    async def publish(
        self, fact: Fact, tenant_id: UUID, *, mode: Any = "test", at: datetime | None = None
    ) -> None:
        """Put another service's event on its topic."""
        self.log.publish(
            wrap(
                fact,
                tenant_id=tenant_id,
                mode=mode,
                source="test",
                effective_at=at or utc_now(),
            )
        )
        await self.log.settle()

    async def enrol(
        self, slug: str, *, operator: bool = False, like: Tenant | None = None
    ) -> Tenant:
        """A tenant with a key, known to the directory."""
        key = apikeys.generate("test")
        tenant_id = PLATFORM_TENANT_ID if operator else new_id()
        tenant = like or Tenant(tenant_id, slug, key.key, new_id())
        tenant_id = tenant.id
        record = ApiKeyRecord(
            key_id=new_id(),
            prefix=key.prefix,
            key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
            mode="test",
            scopes=("billing:manage",),
            operator=operator,
        )
        snapshot = TenantSnapshot(
            version=1,
            slug=slug,
            name=f"{slug} Ltd",
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=tenant.customer_id,
            billing_email=f"billing@{slug}.example",
            owner_user_id=OWNER_USER_ID,
            api_keys=(record,),
        )
        await self.publish(snapshot, tenant_id, mode=None)
        self.tenants[slug] = tenant
        return tenant

    async def plan(self, key: str = "pro", amount_minor: int = 2900, **changes: Any) -> UUID:
        """A plan of the platform."""
        version_id = new_id()
        values: dict[str, Any] = {
            "plan_id": new_id(),
            "plan_version_id": version_id,
            "version": 1,
            "key": key,
            "name": key.capitalize(),
            "interval": "month",
            "currency": "EUR",
            "collection": "stripe",
            "prices": (FlatPrice(price_id=new_id(), amount_minor=amount_minor),),
        }
        await self.publish(PlanPublished(**(values | changes)), PLATFORM_TENANT_ID)
        return version_id

    async def checkout(self, tenant: Tenant, headers: Any = None, **body: Any) -> httpx.Response:
        """Ask for a checkout page."""
        return await self.http.post(
            "/api/v1/billing/checkout",
            json={"plan": "pro"} | body,
            headers={"authorization": f"Bearer {tenant.key}"} | (headers or {}),
        )

    async def get(self, tenant: Tenant, path: str) -> httpx.Response:
        return await self.http.get(path, headers={"authorization": f"Bearer {tenant.key}"})

    async def subscribe(self, tenant: Tenant, card: str = GOOD_CARD) -> None:
        """Check out and pay, with every webhook taken in."""
        answer = await self.checkout(tenant)
        assert answer.status_code == 201, answer.text
        self.sandbox.pay(answer.json()["session_id"], card)
        await self.take_webhooks()

    async def take_webhooks(self) -> None:
        """Deliver every event of the sandbox that was not delivered yet, then come to rest."""
        self.deliver(self.sandbox.events(self.key)[self._delivered() :])
        await self.settle()

    def _delivered(self) -> int:
        received = self.log.events(StripeEventReceived)
        return len({event.data.stripe_event_id for event in received})

    def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        """Webhooks as the gateway publishes them when it knows no tenant."""
        for event in events:
            subject = event["data"]["object"]
            fact = StripeEventReceived(
                account="platform",
                stripe_event_id=event["id"],
                event_type=event["type"],
                api_version=event["api_version"],
                created_at=from_unix(event["created"]),
                object_type=subject["object"],
                object_id=subject.get("id"),
                payload=json.dumps(event),
            )
            self.log.publish(
                wrap(
                    fact,
                    tenant_id=PLATFORM_TENANT_ID,
                    mode="test",
                    source="gateway",
                    effective_at=utc_now(),
                )
            )

    async def settle(self) -> None:
        """Work until nothing is dirty or due any more."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            await self.log.settle()
            await self.work()
            if not await self.pending():
                await self.log.settle()
                return
            assert time.monotonic() < deadline, await self.pending()
            await asyncio.sleep(0.02)

    async def work(self) -> None:
        """One turn of every job."""
        directory = Directory(self.database)
        await self.watch.run_once()
        await leave_unclaimed(self.database)
        async with self.database.maintenance() as tx:
            accounts = await store_marks.due_accounts(tx, utc_now(), [], 100)
        for account, mode in accounts:
            identity = await self.identities.of(account, mode)
            if identity is None:
                await rest(self.database, account, mode, "nobody has connected the account")
            else:
                await AccountWorker(self.database, directory, identity).run_once()
        await CommandWorker(self.database, self.identities).run_once()
        await ClockWorker(self.database, self.identities).run_once()

    async def pending(self) -> list[Any]:
        """What is dirty, or commanded and not done."""
        async with self.database.maintenance() as tx:
            dirty = await tx.fetch("select object_type, object_id, last_error from dirty_object")
            commands = await tx.fetch("select * from command where state = 'pending'")
        return [dict(row) for row in (*dirty, *commands)]

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """A table over all tenants."""
        async with self.test_database.admin() as admin:
            return [dict(row) for row in await admin.fetch(f"select * from stripe_sync.{table}")]

    async def checksum(self) -> dict[str, str]:
        """A digest of every table of the schema, without the core's own bookkeeping."""
        skipped = {"fence", "inbox", "stream", "stream_position"}
        sums = {}
        async with self.test_database.admin() as admin:
            tables = await admin.fetch(
                "select tablename from pg_tables where schemaname = 'stripe_sync'"
            )
            for (table,) in tables:
                if table in skipped:
                    continue
                rows = await admin.fetch(
                    f"select to_jsonb(t) - 'sent_at' - 'stream_seq' as row from stripe_sync.{table} t"
                )
                text = "\n".join(sorted(str(row["row"]) for row in rows))
                sums[table] = f"{len(rows)} {hashlib.sha256(text.encode()).hexdigest()}"
        return sums


def without_platform(identities: Identities) -> Identities:
    """The same without any key of the platform."""
    return Identities(replace(identities.shared, platform_clients={}))


def nobody(database: Database) -> Identities:
    """Identities that can speak for no one."""
    keys = Keyring.parse(f"k1:{base64.b64encode(MASTER_KEY).decode()}")
    secrets = Secrets(database, Sealing(DataKeys(LocalMasterKeys(lambda: keys))))
    wire = Wire(stripe.HTTPXClient(), None, API_VERSION)
    return Identities(Shared(database, Directory(database), secrets, wire, {}))


@asynccontextmanager
async def make_world(database: TestDatabase, log: MemoryLog, sandbox: Sandbox) -> Any:
    """stripe_sync over a database, without its consumers, relay and timed jobs."""
    os.environ["SLUICE_STRIPE_SYNC_POSTGRES"] = database.dsn("stripe_sync")
    settings = Settings()
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(database.open("stripe_sync"))
        directory = Directory(opened)
        secrets = Secrets(opened, settings.sealing)
        identities = await stack.enter_async_context(
            open_identities(settings, opened, directory, secrets)
        )
        log.add(opened, HANDLERS)
        app = build()
        app.state.database, app.state.directory = opened, directory
        app.state.gate = Gate(opened, directory, PEPPER)
        app.state.personal_keys = PersonalKeys(PEPPER)
        app.state.settings, app.state.identities = settings, identities
        app.state.links = CustomerLinks(opened)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://sync") as http:
            watch = ConnectionWatch(opened)
            key = "sk_test_sync"
            yield World(opened, database, log, sandbox, identities, app, http, key, watch)


@pytest.fixture
def environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a stripe_sync process."""
    for name, value in {
        "SLUICE_STRIPE_SYNC_PORT": "19061",
        "SLUICE_STRIPE_SYNC_POSTGRES": "postgresql://set-by-make_world/",
        "SLUICE_KAFKA": "127.0.0.1:1",
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
        "SLUICE_MASTER_KEYS": f"k1:{base64.b64encode(MASTER_KEY).decode()}",
        "STRIPE_SECRET_KEY": "sk_test_sync",
        "SLUICE_STRIPE_API_BASE": sandbox.url,
        "SLUICE_STRIPE_SYNC_TEST_CALLS_PER_SECOND": "0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def world(
    database: TestDatabase,
    log: MemoryLog,
    sandbox: Sandbox,
    environment: None,  # noqa: ARG001 - read by the settings
) -> AsyncGenerator[World, None]:
    """A fresh world: database, log and Stripe account."""
    async with make_world(database, log, sandbox) as world:
        await world.enrol("platform", operator=True)
        await world.enrol("acme")
        await world.enrol("globex")
        yield world
