"""The Stripe sandbox as a program of its own, and a tenants service that talks to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest

from deploy.local.ports import scratch_port
from libs.contracts.tenants import TenantSecrets
from libs.db.pool import Row
from services.tenants.means import Means
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings
from services.tenants.stripe_api import open_stripe

if TYPE_CHECKING:
    from tests.services.tenants.conftest import World

ROOT = Path(__file__).resolve().parents[3]
PLATFORM_KEY = "sk_test_platform_of_tests"
CONFIG = "/api/v1/billing/config"

# The SDK uploads its form as httpx 0.28 deprecates; as an error it would fail every POST.
SDK_WARNING = "ignore:Use 'content=<...>':DeprecationWarning"


@dataclass(frozen=True)
class Account:
    """A company at Stripe."""

    id: str
    secret_key: str
    publishable_key: str


@dataclass
class Sandbox:
    """The sandbox and its control API."""

    url: str
    client: httpx.Client

    def control(self, place: str, **body: Any) -> Any:
        answer = self.client.post(f"/_sim/{place}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def account(self, name: str = "Acme") -> Account:
        """A company of its own with keys."""
        made = self.control("accounts", name=name)
        return Account(made["id"], made["secret_key"], made["publishable_key"])

    def key(self, account: str, kind: str = "secret", permissions: Any = None) -> str:
        """One more key of an account."""
        body = {"kind": kind} | ({"permissions": permissions} if permissions is not None else {})
        key: str = self.control(f"accounts/{account}/keys", **body)["key"]
        return key

    def revoke(self, key: str) -> None:
        self.control("keys/revoke", key=key)

    def fault(self, **fault: Any) -> None:
        self.control("faults", **fault)

    def mend(self) -> None:
        self.client.delete("/_sim/faults")

    def endpoints(self, key: str) -> list[dict[str, Any]]:
        """The webhook endpoints of an account."""
        headers = {"authorization": f"Bearer {key}"}
        answer = self.client.get("/v1/webhook_endpoints", headers=headers, params={"limit": 100})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def consent(self, url: str, account: str, decision: str = "connect") -> str:
        """Answer the page that asks the owner; where the browser is sent back to."""
        path = url.removeprefix(self.url)
        answer = self.client.post(path, data={"decision": decision, "account": account})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def onboard(self, url: str) -> str:
        """Complete the onboarding page; where the browser is sent back to."""
        answer = self.client.post(url.removeprefix(self.url))
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    """One sandbox for the run; each test works with accounts of its own."""
    port = scratch_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "SLUICE_STRIPE_SIM_PORT": str(port),
        "STRIPE_SIM_URL": url,
        "STRIPE_SECRET_KEY": PLATFORM_KEY,
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
    yield Sandbox(url, client)
    client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Iterator[Sandbox]:
    """The sandbox without faults."""
    yield sandbox_process
    sandbox_process.mend()


@dataclass
class StripeWorld:
    """A tenants service with Stripe, and what a test asks of it."""

    world: "World"
    sandbox: Sandbox
    means: Means

    async def tenant(self, name: str) -> tuple[str, str]:
        """A tenant's id and a key of its that manages billing."""
        body = await self.world.sign_up(name)
        key = await self.world.make_key(body["id"], "billing:manage", "tenants:read")
        self.world.keys[key] = body["id"]
        return body["id"], key

    async def start_oauth(self, key: str, **body: Any) -> httpx.Response:
        """Begin to connect, as an operator in a browser, for the tenant that a key is of."""
        client, here = self.world.client, {"Origin": self.world.settings.browser_origin}
        if self.world.settings.cookie_name not in client.cookies:
            sign_in = {"email": "operator@example.com", "password": "correct horse battery"}
            answer = await client.post("/api/v1/session", json=sign_in, headers=here)
            assert answer.status_code == 201, answer.text
        made = await client.post("/api/v1/session/assertion", json={}, headers=here)
        headers = {"X-Tenant-ID": self.world.keys[key]}
        path = "/api/v1/connect/start"
        return await self.call("POST", path, made.json()["assertion"], json=body, headers=headers)

    async def call(self, method: str, path: str, key: str, **parts: Any) -> httpx.Response:
        return await self.world.call(method, path, key=key, **parts)

    async def configure(self, key: str, **body: Any) -> httpx.Response:
        return await self.call("POST", CONFIG, key, json=body)

    def secrets(self, tenant_id: str) -> TenantSecrets:
        """The newest record of a tenant on the topic of secrets."""
        told = [
            event
            for event in self.world.log.events(TenantSecrets)
            if event.tenant_id == UUID(tenant_id)
        ]
        assert [event.data.version for event in told] == list(range(1, len(told) + 1))
        newest: TenantSecrets = told[-1].data
        return newest

    async def rows(self, tenant_id: str) -> list[Row]:
        """The versions of the secrets of a tenant in test mode."""
        async with self.world.database.tenant(UUID(tenant_id), "test") as tx:
            found = await tx.fetch(
                "select * from connection_secret where tenant_id = $1 order by name, version",
                tx.tenant_id,
            )
        return list(found)

    async def connection(self, tenant_id: str) -> Row:
        async with self.world.database.tenant(UUID(tenant_id), "test") as tx:
            return await tx.fetchrow(
                "select * from stripe_connection where tenant_id = $1", tx.tenant_id
            )


@pytest.fixture
async def stripe_world(
    world: "World", sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[StripeWorld, None]:
    """A tenants service whose Stripe is the sandbox."""
    monkeypatch.setenv("SLUICE_STRIPE_API_BASE", sandbox.url)
    monkeypatch.setenv("STRIPE_SECRET_KEY", PLATFORM_KEY)
    monkeypatch.setenv("STRIPE_CLIENT_ID", "ca_platform_sandbox")
    settings = Settings()
    async with open_stripe(settings) as stripe:
        means = Means(world.database, Sealer(world.database, settings.sealing), stripe, settings)
        world.app.state.settings, world.app.state.means = settings, means
        yield StripeWorld(world, sandbox, means)


def query_of(url: str) -> dict[str, str]:
    """The parameters of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
