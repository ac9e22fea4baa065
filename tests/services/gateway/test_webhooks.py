"""Webhooks: what is signed is kept once and published under the right tenant.

What is refused stands in `test_bad_inputs.py`.
"""

import asyncio
import json
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from libs.clock import utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from libs.testing.memory_log import MemoryLog
from services.gateway.app import build
from services.gateway.signature import sign
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    GLOBEX,
    PREVIOUS,
    URL,
    Gateway,
    about,
    snapshot_event,
)


async def test_a_webhook_is_stored_byte_for_byte_and_published_once(gateway: Gateway) -> None:
    event = snapshot_event()
    first = await gateway.send(event)
    again = await gateway.send(event, at=5)
    assert (first.status_code, first.json()) == (200, {"status": "stored"})
    assert (again.status_code, again.json()) == (200, {"status": "duplicate"})
    (row,) = await gateway.archived()
    assert row["payload"] == json.dumps(event).encode()
    assert row["tenant_id"] == ACME
    assert row["headers"]["stripe-signature"].startswith("t=")
    ((tenant_id, mode, published),) = await gateway.published()
    assert (tenant_id, mode) == (ACME, "test")
    assert list(published["data"]) == list(StripeEventReceived.model_fields)
    assert published["data"]["stripe_event_id"] == event["id"]
    assert published["data"]["account"] == "platform"
    assert (published["data"]["object_type"], published["data"]["object_id"]) == ("invoice", "in_1")
    assert json.loads(published["data"]["payload"]) == event


async def test_both_addresses_are_one(gateway: Gateway) -> None:
    event = snapshot_event()
    assert (await gateway.send(event, url="/api/v1/billing/webhook")).json()["status"] == "stored"
    assert (await gateway.send(event)).json()["status"] == "duplicate"


async def test_a_hundred_twins_at_once_are_one_event(gateway: Gateway) -> None:
    event = snapshot_event()
    answers = await asyncio.gather(*(gateway.send(event) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["status"] for answer in answers].count("stored") == 1
    assert len(await gateway.published()) == 1


@pytest.mark.parametrize(
    ("subject", "tenant", "assignment"),
    [
        ({"customer": ACME_CUSTOMER}, ACME, "customer"),
        ({"customer": {"id": ACME_CUSTOMER, "object": "customer"}}, ACME, "customer"),
        ({"id": ACME_CUSTOMER, "object": "customer"}, ACME, "customer"),
        ({"customer": ACME_CUSTOMER, "metadata": {"tenant_id": str(GLOBEX)}}, ACME, "customer"),
        ({"customer": "cus_new", "metadata": {"tenant_id": str(GLOBEX)}}, GLOBEX, "metadata"),
        (
            {"parent": {"subscription_details": {"metadata": {"tenant_id": str(GLOBEX)}}}},
            GLOBEX,
            "metadata",
        ),
        ({"metadata": {"tenant_id": str(new_id())}}, PLATFORM_TENANT_ID, "unassigned"),
        ({"customer": "cus_nobody"}, PLATFORM_TENANT_ID, "unassigned"),
        ({}, PLATFORM_TENANT_ID, "account"),
        ({"customer": 7, "metadata": [], "parent": "x"}, PLATFORM_TENANT_ID, "account"),
    ],
)
async def test_the_tenant_of_an_event(
    gateway: Gateway, subject: dict[str, Any], tenant: Any, assignment: str
) -> None:
    assert (await gateway.send(about(**subject))).status_code == 200
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["assignment"]) == (tenant, assignment)


async def test_secrets_roll_without_a_refusal(gateway: Gateway) -> None:
    assert (await gateway.send(snapshot_event(), secret=PREVIOUS)).status_code == 200
    event = snapshot_event()
    body = json.dumps(event).encode()
    now = int(utc_now().timestamp())
    old = sign(b"whsec_forgotten", body, now).partition(b",")[2]
    header = sign(PREVIOUS, body, now) + b"," + old
    assert (await gateway.send(event, header=header)).status_code == 200


async def test_a_thin_event_is_kept(gateway: Gateway) -> None:
    event = {
        "id": "evt_thin_1",
        "object": "v2.core.event",
        "type": "v2.core.account[requirements].updated",
        "livemode": False,
        "created": "2026-10-30T12:00:00.000Z",
        "related_object": {"id": ACME_CUSTOMER, "type": "customer", "url": "/v1/customers/x"},
        "context": None,
    }
    assert (await gateway.send(event)).json() == {"status": "stored"}
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["object_id"]) == (ACME, ACME_CUSTOMER)


async def test_21_an_unknown_account_is_quarantined_once(gateway: Gateway) -> None:
    event = snapshot_event(account="acct_stranger")
    assert (await gateway.send(event, secret=CONNECT)).json()["status"] == "quarantined"
    assert (await gateway.send(event, secret=CONNECT)).json()["status"] == "duplicate"
    (row,) = await gateway.archived()
    assert (row["account"], row["tenant_id"]) == ("acct_stranger", PLATFORM_TENANT_ID)
    unsigned = await gateway.send(snapshot_event(account="acct_stranger"), secret=b"whsec_no")
    assert unsigned.status_code == 400
    assert unsigned.json()["code"] == "signature_invalid"


async def test_nul_inside_a_signed_event_is_kept(gateway: Gateway) -> None:
    answer = await gateway.send(about(description="a\x00b", customer="cus_\x00"))
    assert answer.json() == {"status": "stored"}


async def test_a_large_event_is_kept_whole_and_travels_without_its_body(gateway: Gateway) -> None:
    assert (await gateway.send(about(description="x" * 400_000))).status_code == 200
    ((_, _, published),) = await gateway.published()
    assert published["data"]["payload"] is None
    (row,) = await gateway.archived()
    assert len(row["payload"]) > 400_000


async def test_without_a_secret_the_endpoint_is_closed(gateway: Gateway) -> None:
    gateway.app.state.endpoint_secrets = ()
    answer = await gateway.send(snapshot_event())
    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


@pytest.mark.usefixtures("environment")
async def test_postgres_down_says_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_GATEWAY_POSTGRES", "postgresql://nobody:x@127.0.0.1:1/none")
    async with running(build()) as client:
        body = json.dumps(snapshot_event()).encode()
        signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
        answer = await client.post(URL, content=body, headers={"stripe-signature": signed})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.usefixtures("gateway")
async def test_kafka_down_is_not_noticed_by_stripe() -> None:
    async with running(build()) as client:
        body = json.dumps(snapshot_event()).encode()
        signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
        answer = await client.post(URL, content=body, headers={"stripe-signature": signed})
    assert answer.json() == {"status": "stored"}


class running:  # noqa: N801 - reads as a phrase
    """An application with its lifespan, and a client of it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._lifespan = app.router.lifespan_context(app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def __aenter__(self) -> httpx.AsyncClient:
        await self._lifespan.__aenter__()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._lifespan.__aexit__(None, None, None)


async def test_replaying_the_topics_changes_nothing(gateway: Gateway, log: MemoryLog) -> None:
    log.add(gateway.database, {}, parks=False)
    for number in range(5):
        await gateway.send(about(customer=ACME_CUSTOMER, id=f"in_{number}"))
    await log.settle()
    before = (await gateway.count("webhook_event"), await gateway.count("outbox"))
    await log.replay(clear_inboxes=True)
    assert (await gateway.count("webhook_event"), await gateway.count("outbox")) == before
    assert len(log.events(StripeEventReceived)) == 5


async def test_sql_in_another_tenants_scope_sees_nothing(gateway: Gateway) -> None:
    await gateway.send(snapshot_event())
    async with gateway.database.tenant(GLOBEX, "test") as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == 0
    async with gateway.database.tenant(ACME, "live") as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with gateway.database.tenant(ACME, "test") as tx:
            await tx.execute("delete from webhook_event")
