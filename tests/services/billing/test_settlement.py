"""What becomes of a final invoice is told once: credited, given up, recovered, voided."""

from datetime import timedelta
from typing import Any

import pytest

from billing.story import PERIODS, START, Story, publish_plan
from libs.contracts.billing import (
    CompleteInvoice,
    CreditExpired,
    InvoiceCredited,
    InvoiceFinalized,
    InvoicePaid,
    InvoiceRecovered,
    InvoiceVoided,
    InvoiceWrittenOff,
)
from libs.db.pool import Database
from libs.money import Money
from libs.testing.memory_log import MemoryLog
from services.billing import credit, credit_expiry

TOLD = (
    InvoiceFinalized,
    InvoiceCredited,
    InvoiceWrittenOff,
    InvoiceRecovered,
    InvoiceVoided,
    InvoicePaid,
)


@pytest.fixture
async def story(billing: Database, log: MemoryLog) -> Story:
    """A subscription whose first invoice Stripe has yet to tell of."""
    plan = await publish_plan(billing)
    story = Story(billing, log, plan.plan_version_id)
    story.begin()
    for topic in ("tenants", "payments", "payments"):
        await story.deliver(topic)
    return story


async def see(story: Story, status: str, **changes: Any) -> None:
    """Stripe tells this state of the first invoice, twice."""
    event = story.event(story.invoice("in_first", status, **changes), PERIODS[0])
    for _ in range(2):
        story.log.publish(event)
    await story.log.settle()


def told(story: Story) -> list[tuple[str, Any]]:
    """What was said of the invoice, in order, with its amount."""
    found = [event for kind in TOLD for event in story.told(kind)]
    return [
        (
            event.type,
            getattr(event.data, "amount_minor", getattr(event.data, "credited_minor", None)),
        )
        for event in sorted(found, key=lambda event: event.stream_seq or 0)
    ]


async def test_a_final_invoice_has_a_date(story: Story) -> None:
    await see(story, "open")
    ((event),) = story.told(InvoiceFinalized)
    assert event.data.finalized_at == START


async def test_a_voided_invoice_carries_what_was_told_of_it(story: Story) -> None:
    await see(story, "open")
    await see(story, "void")
    assert told(story) == [("InvoiceFinalized", None), ("InvoiceVoided", 0)]
    (final,), (void,) = story.told(InvoiceFinalized), story.told(InvoiceVoided)
    assert void.data.final == final.data
    await see(story, "void", credited_minor=5)
    assert len(told(story)) == 2


async def test_an_invoice_that_was_void_when_it_was_first_seen_was_never_owed(story: Story) -> None:
    await see(story, "void")
    await see(story, "void")
    assert told(story) == []


async def test_an_invoice_of_an_earlier_release_is_voided_without_a_date(story: Story) -> None:
    await see(story, "open")
    async with story.database.tenant(story.tenant_id, "test") as tx:
        await tx.execute("update invoice set dated = false")
    await see(story, "void")
    (void,) = story.told(InvoiceVoided)
    assert void.data.final.finalized_at is None


async def test_credit_notes_before_payment(story: Story) -> None:
    """One, a second, and one that is voided; then the rest is paid."""
    await see(story, "open")
    for credited_minor in (900, 1000, 900):
        await see(story, "open", credited_minor=credited_minor)
    await see(story, "paid", credited_minor=900, amount_paid_minor=4000)
    assert told(story) == [
        ("InvoiceFinalized", None),
        ("InvoiceCredited", 900),
        ("InvoiceCredited", 1000),
        ("InvoiceCredited", 900),
        ("InvoicePaid", None),
    ]
    credited = [event.data for event in story.told(InvoiceCredited)]
    assert [fact.credited_before_minor for fact in credited] == [0, 900, 1000]
    assert [fact.sequence for fact in credited] == [1, 2, 3]


async def test_what_is_given_up_is_recovered_by_its_payment(story: Story) -> None:
    """Credited first: only what was open is given up; a part of it is paid, then all."""
    await see(story, "open", credited_minor=400)
    await see(story, "uncollectible", credited_minor=400)
    await see(story, "uncollectible", credited_minor=400, amount_paid_minor=1500)
    await see(story, "paid", credited_minor=400, amount_paid_minor=4500)
    assert told(story) == [
        ("InvoiceFinalized", None),
        ("InvoiceCredited", 400),
        ("InvoiceWrittenOff", 4500),
        ("InvoiceRecovered", 1500),
        ("InvoiceRecovered", 3000),
        ("InvoicePaid", None),
    ]


async def test_what_is_given_up_and_then_void_is_owed_again_first(story: Story) -> None:
    await see(story, "uncollectible")
    await see(story, "void")
    assert told(story) == [
        ("InvoiceFinalized", None),
        ("InvoiceWrittenOff", 4900),
        ("InvoiceRecovered", 4900),
        ("InvoiceVoided", 0),
    ]


async def grant(story: Story, amount_minor: int, days: int) -> None:
    async with story.database.tenant(story.tenant_id, "test") as tx:
        await credit.grant_credit(
            tx,
            story.customer_id,
            "platform",
            Money(amount_minor, "EUR"),
            START + timedelta(days=days),
            START,
            actor="key_operator",
        )


async def expire(story: Story, days: int) -> list[int]:
    """What expires when the tenant's clock has come so far; amounts told since the beginning."""
    async with story.database.tenant(story.tenant_id, "test") as tx:
        await credit_expiry.expire(tx, START + timedelta(days=days))
    await story.log.settle()
    return [event.data.amount_minor for event in story.told(CreditExpired)]


async def use(story: Story, amount_minor: int) -> int:
    """The first invoice uses credit as of its beginning; how much."""
    async with story.database.tenant(story.tenant_id, "test") as tx:
        (invoice,) = await tx.fetch("select id from invoice")
        money = Money(amount_minor, "EUR")
        uses = await credit.use_credit(tx, invoice["id"], story.customer_id, money, START)
    await story.log.settle()
    return sum(taken for _, taken in uses)


async def left(story: Story) -> list[tuple[int, int]]:
    rows = await story.rows("select used_minor, expired_minor from credit_grant order by id")
    return [(row["used_minor"], row["expired_minor"]) for row in rows]


async def test_credit_expires_once_at_its_time(story: Story) -> None:
    await grant(story, 500, days=10)
    assert await expire(story, 9) == []
    assert await expire(story, 10) == [500]
    assert await expire(story, 20) == [500]
    (event,) = story.told(CreditExpired)
    assert event.effective_at == START + timedelta(days=10)
    assert await left(story) == [(0, 500)]


async def test_an_invoice_of_before_uses_what_has_expired_meanwhile(story: Story) -> None:
    await see(story, "open")
    await grant(story, 500, days=10)
    assert await expire(story, 30) == [500]
    assert await use(story, 300) == 300
    assert await left(story) == [(300, 200)]
    assert await expire(story, 40) == [500, -300]
    assert [event.data.sequence for event in story.told(CreditExpired)] == [1, 2]


async def test_credit_of_a_voided_invoice_is_there_again_and_may_expire(story: Story) -> None:
    await see(story, "open")
    await grant(story, 500, days=10)
    assert await use(story, 300) == 300
    assert await expire(story, 30) == [200]
    await see(story, "void")
    await see(story, "void")
    assert await left(story) == [(0, 200)]
    assert await expire(story, 31) == [200, 300]
    assert await left(story) == [(0, 500)]


async def test_credit_of_an_invoice_that_is_first_seen_void_is_there_again(story: Story) -> None:
    """It used credit as a draft, and nobody was told of it as final."""
    story.usage = [{}]
    await grant(story, 500, days=90)
    while not story.told(CompleteInvoice):
        await story.deliver("metering" if story.queues["metering"] else "payments")
    assert await left(story) == [(500, 0)]
    finals = len(story.told(InvoiceFinalized))
    _, opened, paid = story.queues["payments"]
    for event in (opened, opened, paid):
        void = event.data.model_copy(update={"status": "void", "amount_paid_minor": 0})
        story.log.publish(story.event(void, PERIODS[1]))
        await story.log.settle()
        assert await left(story) == [(0, 0)]
    assert (len(story.told(InvoiceFinalized)), story.told(InvoiceVoided)) == (finals, [])


async def test_the_job_finds_who_is_due_by_its_own_clock(story: Story) -> None:
    """By the real time, or ahead of it by the tenant's clock."""
    await grant(story, 500, days=10)
    await grant(story, 70, days=4000)
    await credit_expiry.expire_due(story.database, limit=10)
    async with story.database.tenant(story.tenant_id, None) as tx:
        await tx.execute(
            "insert into directory (tenant_id, version, slug, clock_offset_seconds, snapshot) "
            "values ($1, 1, 'acme', $2, '{}')",
            story.tenant_id,
            4000 * 86400,
        )
    await credit_expiry.expire_due(story.database, limit=10)
    await story.log.settle()
    assert [event.data.amount_minor for event in story.told(CreditExpired)] == [500, 70]


async def test_a_replay_tells_nothing_again(story: Story) -> None:
    await see(story, "open", credited_minor=400)
    await see(story, "uncollectible", credited_minor=400)
    await see(story, "void", credited_minor=400)
    before = told(story)
    assert len(before) == 5
    await story.log.replay(clear_inboxes=True)
    assert told(story) == before
