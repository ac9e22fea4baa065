"""Any order, any duplicate, anything lost: the same mirror and the same facts."""

import json
import random
from collections import Counter
from typing import Any

import pytest

from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    PaymentSucceeded,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.testing.databases import clone
from libs.testing.memory_log import MemoryLog
from services.stripe_sync import jobs
from tests.services.stripe_sync.conftest import Sandbox, World, make_world

FACTS = (
    StripeSubscriptionChanged,
    StripeInvoiceChanged,
    PaymentSucceeded,
    BalanceTransactionRecorded,
)


def said(log: MemoryLog) -> Counter[str]:
    """The facts of a log, without the ids that each database makes up itself."""
    found: Counter[str] = Counter()
    for kind in FACTS:
        for event in log.events(kind):
            data = event.data.model_dump(mode="json", exclude={"payment_id"})
            found[f"{event.tenant_id} {event.type} {json.dumps(data, sort_keys=True)}"] += 1
    return found


async def mirror(world: World) -> dict[str, Any]:
    """The mirror without the times of looking."""
    rows = await world.rows("stripe_object")
    return {
        row["object_id"]: {name: value for name, value in row.items() if name != "fetched_at"}
        for row in rows
    }


@pytest.fixture
async def bought(world: World) -> list[dict[str, Any]]:
    """The webhooks of one checkout, paid, and none of them delivered yet."""
    await world.plan()
    answer = await world.checkout(world.tenants["acme"])
    world.sandbox.pay(answer.json()["session_id"])
    return world.sandbox.events(world.key)


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_with_duplicates_ends_alike(
    template: str, world: World, bought: list[dict[str, Any]], sandbox: Sandbox, seed: int
) -> None:
    """Into databases that know neither the customer nor the plan: everything is found out."""
    chance = random.Random(seed)
    endings = []
    for shuffled in (False, True):
        events = list(bought)
        if shuffled:
            events += chance.choices(bought, k=len(bought) // 2)
            chance.shuffle(events)
        log = MemoryLog()
        async with clone(template) as fresh, make_world(fresh, log, sandbox) as other:
            await other.enrol("platform", like=world.tenants["platform"])
            await other.enrol("acme", like=world.tenants["acme"])
            while events:
                size = chance.randint(1, len(events)) if shuffled else len(events)
                chunk, events = events[:size], events[size:]
                other.deliver(chunk)
                await other.log.settle()
                await other.work()
            await other.settle()
            endings.append((await mirror(other), said(log)))
    assert endings[0] == endings[1]
    facts = endings[0][1]
    assert sum(facts.values()) == 4
    assert max(facts.values()) == 1
    assert all(text.startswith(str(world.tenants["acme"].id)) for text in facts)


async def test_a_balance_transaction_without_its_webhooks_is_found(
    world: World, bought: list[dict[str, Any]]
) -> None:
    assert bought
    await jobs.ask_for_transactions(world.database, world.identities)
    await world.settle()
    (moved,) = world.log.events(BalanceTransactionRecorded)
    assert moved.tenant_id == world.tenants["acme"].id
    await world.take_webhooks()
    await jobs.ask_for_transactions(world.database, world.identities)
    await world.settle()
    assert len(world.log.events(BalanceTransactionRecorded)) == 1
    assert len(world.log.events(PaymentSucceeded)) == 1


async def test_an_invoice_alone_leads_to_its_payment(
    world: World, bought: list[dict[str, Any]]
) -> None:
    world.deliver([event for event in bought if event["type"] == "invoice.paid"])
    await world.settle()
    assert len(world.log.events(PaymentSucceeded)) == 1
    assert len(world.log.events(BalanceTransactionRecorded)) == 1


async def test_a_mark_made_during_a_fetch_is_not_lost(world: World) -> None:
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    (subscription,) = {e.data.stripe_subscription_id for e in world.log.events(FACTS[0])}
    events = [
        e for e in world.sandbox.events(world.key) if e["data"]["object"]["id"] == subscription
    ]
    world.deliver(events[:1])
    await world.log.settle()
    (before,) = await world.rows("dirty_object")
    world.deliver(events[:1])
    await world.log.settle()
    (after,) = await world.rows("dirty_object")
    assert after["generation"] > before["generation"]


async def test_hostile_events_mark_nothing_odd(world: World) -> None:
    odd = {
        "id": "evt_odd",
        "type": "invoice.paid",
        "api_version": None,
        "created": 1_790_000_000,
        "data": {"object": {"object": "invoice", "id": "../accounts"}},
    }
    strange = {**odd, "id": "evt_odd_2", "data": {"object": {"object": "galaxy", "id": "ga_1"}}}
    gone = {**odd, "id": "evt_odd_3", "data": {"object": {"object": "invoice", "id": "in_gone"}}}
    world.deliver([odd, strange, gone])
    await world.settle()
    assert await world.rows("stripe_object") == []
