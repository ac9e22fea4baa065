"""Gateway and stripe_sync as processes, on real Kafka, with the sandbox sending real webhooks."""

import asyncio
import base64
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.ports import scratch_port
from deploy.local.scratch import RunningKafka
from libs.clock import utc_now
from libs.contracts.billing import FlatPrice, PlanPublished
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot
from libs.contracts.topics import TOPIC_OF
from libs.crypto import apikeys
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.messaging.records import TYPE_HEADER
from libs.testing.databases import TestDatabase

ROOT = Path(__file__).resolve().parents[3]
PEPPER = b"p" * 32
WANTED = {
    "BalanceTransactionRecorded",
    "PaymentSucceeded",
    "StripeCustomerLinked",
    "StripeInvoiceChanged",
    "StripeSubscriptionChanged",
}


@dataclass
class Stack:
    """Three processes, their environment and their ports."""

    environment: dict[str, str]
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}.app"], cwd=ROOT, env=self.environment
        )

    def kill(self, name: str) -> None:
        """As the machine would: without a word."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes.pop(name).wait(60)

    async def ready(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        await until(lambda: caught_up(httpx.get(url, timeout=20)))

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            assert process.wait(60) in (0, -signal.SIGTERM)


def caught_up(answer: httpx.Response) -> bool:
    """Ready, and everything on the topics is taken in."""
    checks = answer.json()["checks"]
    lags = [check["detail"] for name, check in checks.items() if name.startswith("consumer")]
    return answer.status_code == 200 and all(lag == "0 records behind" for lag in lags)


async def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something to hold."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                found = condition()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running(
    database: TestDatabase, kafka: RunningKafka, **more: str
) -> AsyncGenerator[Stack, None]:
    ports = {name: scratch_port() for name in ("gateway", "stripe_sync", "stripe_sim")}
    secret = f"whsec_{secrets.token_hex(8)}"
    environment = {
        "PATH": os.environ["PATH"],
        "SLUICE_KAFKA": kafka.bootstrap,
        "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
        "SLUICE_MASTER_KEYS": f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "STRIPE_SECRET_KEY": f"sk_test_{secrets.token_hex(8)}",
        "STRIPE_WEBHOOK_SECRET": secret,
        "STRIPE_SIM_URL": f"http://127.0.0.1:{ports['stripe_sim']}",
        "SLUICE_STRIPE_API_BASE": f"http://127.0.0.1:{ports['stripe_sim']}",
        "SLUICE_STRIPE_SYNC_TEST_CALLS_PER_SECOND": "0",
        "STRIPE_SIM_WEBHOOK_URL": f"http://127.0.0.1:{ports['gateway']}/api/webhooks/stripe",
        "SLUICE_STRIPE_SYNC_TRANSACTIONS_EVERY_SECONDS": "2",
        **more,
    }
    for name, port in ports.items():
        environment[f"SLUICE_{name.upper()}_PORT"] = str(port)
    for name in ("gateway", "stripe_sync"):
        environment[f"SLUICE_{name.upper()}_POSTGRES"] = database.dsn(name)
    stack = Stack(environment, ports, {})
    for name in ports:
        stack.start(name)
    try:
        yield stack
    finally:
        stack.stop()


@pytest.mark.flow
async def test_a_payment_arrives_although_every_process_is_killed_on_the_way(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    await create_topics(kafka_server.bootstrap)
    key = apikeys.generate("test")
    acme = new_id()
    async with (
        running(database, kafka_server) as stack,
        httpx.AsyncClient(timeout=60) as client,
        AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap) as producer,
    ):

        async def publish(event: Envelope[Any]) -> None:
            await producer.send_and_wait(
                TOPIC_OF[type(event.data)].name,
                event.model_dump_json().encode(),
                key=str(event.tenant_id).encode(),
                headers=[(TYPE_HEADER, event.type.encode())],
            )

        await publish(snapshot(acme, key))
        await publish(plan())
        for name in ("gateway", "stripe_sync"):
            await stack.ready(name)
        base = f"http://127.0.0.1:{stack.ports['stripe_sync']}"
        checkout = await client.post(
            f"{base}/api/v1/billing/checkout",
            json={"plan": "pro"},
            headers={"authorization": f"Bearer {key.key}", "idempotency-key": "first"},
        )
        assert checkout.status_code == 201, checkout.text
        stack.kill("gateway")
        paid = await client.post(
            f"{stack.environment['STRIPE_SIM_URL']}/_sim/checkout/"
            f"{checkout.json()['session_id']}/pay",
            json={"card": "4242424242424242"},
        )
        assert paid.status_code == 200
        stack.start("gateway")
        await asyncio.sleep(1.5)
        stack.kill("stripe_sync")
        stack.start("stripe_sync")
        sent = await until(lambda: sent_facts(database), 90)
        for name in ("gateway", "stripe_sync"):
            await stack.ready(name)
        sent = await until(lambda: sent_facts(database))
    assert sent["StripeCustomerLinked"] == sent["PaymentSucceeded"] == 1
    assert sent["BalanceTransactionRecorded"] == 1
    assert sent["StripeInvoiceChanged"] >= 1


async def sent_facts(database: TestDatabase) -> dict[str, int] | None:
    """Facts that reached Kafka, once every kind is among them."""
    admin: asyncpg.Connection
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select event_type, count(*) from stripe_sync.outbox where sent_at is not null "
            "group by event_type"
        )
    found = {row["event_type"]: row["count"] for row in rows}
    return found if set(found) >= WANTED else None


def snapshot(tenant_id: Any, key: apikeys.ApiKey, slug: str = "acme") -> Envelope[TenantSnapshot]:
    record = ApiKeyRecord(
        key_id=new_id(),
        prefix=key.prefix,
        key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
        mode="test",
        scopes=("billing:manage",),
    )
    data = TenantSnapshot(
        version=1,
        slug=slug,
        name=slug.capitalize(),
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        api_keys=(record,),
    )
    return wrap(data, tenant_id=tenant_id, mode=None, source="tenants", effective_at=utc_now())


def plan() -> Envelope[PlanPublished]:
    data = PlanPublished(
        plan_id=new_id(),
        plan_version_id=new_id(),
        version=1,
        key="pro",
        name="Pro",
        interval="month",
        currency="EUR",
        collection="stripe",
        prices=(FlatPrice(price_id=new_id(), amount_minor=2900),),
    )
    return wrap(
        data,
        tenant_id=PLATFORM_TENANT_ID,
        mode="test",
        source="billing",
        effective_at=utc_now(),
    )
