"""Webhooks that never arrive, all of them or every other: found in Stripe's list, they lead to the same.

Gateway and stripe_sync are processes on real Kafka; what was found travels through the gateway.
"""

from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.scratch import RunningKafka
from libs.contracts.envelope import Envelope
from libs.contracts.topics import TOPIC_OF
from libs.crypto import apikeys
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.messaging.records import TYPE_HEADER
from libs.testing.databases import TestDatabase
from tests.services.stripe_sync.test_processes import (
    WANTED,
    Stack,
    plan,
    running,
    snapshot,
    until,
)

ARRIVING = {"all": 0.0, "half": 0.5, "none": 1.0}
"""Tenants by name, and the share of their webhooks that is lost."""
HEALS_SECONDS = 90


async def check_out(stack: Stack, client: httpx.AsyncClient, key: str, *, lost: float) -> None:
    """Buy and pay while this share of the webhooks is lost."""
    sandbox = stack.environment["STRIPE_SIM_URL"]
    fault = {"kind": "webhook_drop", "probability": lost}
    (await client.post(f"{sandbox}/_sim/faults", json=fault)).raise_for_status()
    checkout = await client.post(
        f"http://127.0.0.1:{stack.ports['stripe_sync']}/api/v1/billing/checkout",
        json={"plan": "pro"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert checkout.status_code == 201, checkout.text
    pay = f"{sandbox}/_sim/checkout/{checkout.json()['session_id']}/pay"
    (await client.post(pay, json={"card": "4242424242424242"})).raise_for_status()
    await client.delete(f"{sandbox}/_sim/faults")


async def events_at_stripe(stack: Stack, client: httpx.AsyncClient) -> set[str]:
    """Everything that happened."""
    headers = {"authorization": f"Bearer {stack.environment['STRIPE_SECRET_KEY']}"}
    url = f"{stack.environment['STRIPE_SIM_URL']}/v1/events"
    page = (await client.get(url, params={"limit": 100}, headers=headers)).json()
    assert not page["has_more"]
    return {event["id"] for event in page["data"]}


async def facts_of(database: TestDatabase, tenant_id: Any) -> dict[str, Any]:
    """What was told of a tenant's money: how often each kind, and the states at the end."""
    async with database.admin() as admin:
        told = await admin.fetch(
            "select event_type, payload::jsonb -> 'data' as data from stripe_sync.outbox "
            "where tenant_id = $1 and event_type = any($2::text[]) order by id",
            tenant_id,
            list(WANTED),
        )
        kept = await admin.fetch(
            "select stripe_event_id, headers::jsonb ->> 'source' as source "
            "from gateway.webhook_event"
        )
    last = {row["event_type"]: row["data"] for row in told}
    once = ("PaymentSucceeded", "BalanceTransactionRecorded", "StripeCustomerLinked")
    return {
        "kinds": set(last),
        "once": {kind: sum(row["event_type"] == kind for row in told) for kind in once},
        "archived": [row["stripe_event_id"] for row in kept],
        "found": {row["stripe_event_id"] for row in kept if row["source"]},
    }


@pytest.mark.flow
async def test_webhooks_that_never_arrive_are_found_and_lead_to_the_same(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    await create_topics(kafka_server.bootstrap)
    keys = {name: apikeys.generate("test") for name in ARRIVING}
    tenants = {name: new_id() for name in ARRIVING}
    patience = {
        "SLUICE_STRIPE_SYNC_GAP_FILL_EVERY_SECONDS": "2",
        "SLUICE_STRIPE_SYNC_FOUND_AFTER_SECONDS": "1",
        "STRIPE_SIM_SEED": "20260108",
    }
    async with (
        running(database, kafka_server, **patience) as stack,
        httpx.AsyncClient(timeout=30) as client,
        AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap) as producer,
    ):
        known: list[Envelope[Any]] = [plan()]
        known += [snapshot(tenants[name], keys[name], f"missed-{name}") for name in ARRIVING]
        for event in known:
            await producer.send_and_wait(
                TOPIC_OF[type(event.data)].name,
                event.model_dump_json().encode(),
                key=str(event.tenant_id).encode(),
                headers=[(TYPE_HEADER, event.type.encode())],
            )
        for name in ("gateway", "stripe_sync"):
            await stack.ready(name)
        for name, lost in ARRIVING.items():
            await check_out(stack, client, keys[name].key, lost=lost)
        happened = await events_at_stripe(stack, client)

        async def healed() -> bool:
            facts = [await facts_of(database, tenant_id) for tenant_id in tenants.values()]
            return all(each["kinds"] == WANTED for each in facts) and happened <= set(
                facts[0]["archived"]
            )

        await until(healed, HEALS_SECONDS)
        for name in ("gateway", "stripe_sync"):
            await stack.ready(name)
    facts = {name: await facts_of(database, tenant_id) for name, tenant_id in tenants.items()}
    for each in facts.values():
        assert each["once"] == dict.fromkeys(each["once"], 1)
    archived, found = facts["all"]["archived"], facts["all"]["found"]
    assert sorted(set(archived) & happened) == sorted(e for e in archived if e in happened)
    assert 0 < len(found & happened) < len(happened)
