"""Order holds inside a topic only: every interleaving of the topics comes to the same invoices."""

import random

import pytest

from billing.story import Story, publish_plan
from libs.db.pool import Database
from libs.testing.memory_log import MemoryLog

USAGE = [
    {"api_calls": ["2600", "3001"], "storage": ["10"]},
    {"api_calls": ["1"], "storage": ["0.5"]},
]
INTERLEAVINGS = 40


@pytest.mark.parametrize("seed", range(3))
async def test_every_interleaving_of_topics_comes_to_the_same(
    billing: Database, log: MemoryLog, seed: int
) -> None:
    plan = await publish_plan(billing)
    parts = {"usage": USAGE, "cycles": 2, "credit_minor": 700}
    expected = Story(billing, log, plan.plan_version_id, **parts)
    expected.begin()
    await expected.tell_all()
    outcome = await expected.outcome()
    assert len(outcome["InvoiceFinalized"]) == len(outcome["InvoicePaid"]) == 3

    chance = random.Random(seed)
    for _ in range(INTERLEAVINGS // 3):
        story = Story(billing, log, plan.plan_version_id, **parts)
        story.begin()
        leaning = {name: chance.random() for name in story.queues}
        while any(story.queues.values()):
            speaking = [name for name, queue in story.queues.items() if queue]
            weights = [leaning[name] for name in speaking]
            await story.deliver(chance.choices(speaking, weights)[0])
        assert await story.outcome() == outcome
        assert not await story.rows("select from waiting_fact")


async def test_payments_long_before_the_tenant(billing: Database, log: MemoryLog) -> None:
    plan = await publish_plan(billing)
    parts = {"usage": USAGE, "cycles": 2}
    early, late = (Story(billing, log, plan.plan_version_id, **parts) for _ in range(2))
    early.begin()
    await early.tell_all()
    late.begin()
    while late.queues["payments"]:
        await late.deliver("payments")
    assert not await late.rows("select from invoice")
    await late.tell_all()
    assert await late.outcome() == await early.outcome()


async def test_an_invoice_before_its_subscription(billing: Database, log: MemoryLog) -> None:
    plan = await publish_plan(billing)
    usual, other = (
        Story(billing, log, plan.plan_version_id, usage=USAGE, cycles=2) for _ in range(2)
    )
    usual.begin()
    await usual.tell_all()
    other.begin()
    payments = other.queues["payments"]
    subscription = payments[1]
    del payments[1]
    payments.insert(3, subscription)
    await other.tell_all()
    assert await other.outcome() == await usual.outcome()
