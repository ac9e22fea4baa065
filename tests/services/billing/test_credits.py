"""Credit under concurrency: never used twice, never below zero; the first to expire goes first."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from billing.story import START, Story
from libs.db.pool import Database
from libs.ids import new_id
from libs.money import Money
from libs.testing.memory_log import MemoryLog
from services.billing import credit


@pytest.fixture
async def story(billing: Database, log: MemoryLog) -> Story:
    """A tenant with two drafts."""
    story = Story(billing, log, None)
    story.begin()
    await story.deliver("tenants")
    async with billing.tenant(story.tenant_id, "test") as tx:
        for number in range(10):
            await tx.execute(
                "insert into invoice (tenant_id, mode, id, customer_id, stripe_invoice_id, "
                "stripe_version, reason, status, currency, period_from, period_to, created_at) "
                "values ($1, 'test', $2, $3, $4, 1, 'manual', 'draft', 'EUR', $5, $5, $5)",
                story.tenant_id,
                new_id(),
                story.customer_id,
                f"in_{number}",
                START,
            )
    return story


async def grant(
    story: Story, amount_minor: int, *, days: int | None = None, currency: str = "EUR"
) -> UUID:
    expires_at = None if days is None else START + timedelta(days=days)
    async with story.database.tenant(story.tenant_id, "test") as tx:
        return await credit.grant_credit(
            tx,
            story.customer_id,
            "platform",
            Money(amount_minor, currency),
            expires_at,
            START,
            actor="key_operator",
        )


async def use(story: Story, invoice_id: UUID, amount_minor: int) -> list[tuple[UUID, int]]:
    async with story.database.tenant(story.tenant_id, "test") as tx:
        uses = await credit.use_credit(
            tx, invoice_id, story.customer_id, Money(amount_minor, "EUR"), START
        )
        await asyncio.sleep(0.01)
        return uses


async def drafts(story: Story) -> list[UUID]:
    return [row["id"] for row in await story.rows("select id from invoice order by id")]


async def test_concurrent_drafts_never_use_the_same_credit_twice(story: Story) -> None:
    for amount in (300, 500, 200):
        await grant(story, amount)
    invoices = await drafts(story)
    uses = await asyncio.gather(*(use(story, invoice, 150) for invoice in invoices[:8]))
    taken = [sum(amount for _, amount in parts) for parts in uses]
    assert sorted(taken) == [0, 100, 150, 150, 150, 150, 150, 150]
    left = await story.rows(
        "select sum(amount_minor - used_minor)::bigint as left from credit_grant"
    )
    assert left[0]["left"] == 0


async def test_the_first_to_expire_goes_first_and_the_expired_not_at_all(story: Story) -> None:
    never = await grant(story, 100)
    late = await grant(story, 100, days=20)
    soon = await grant(story, 100, days=10)
    await grant(story, 100, days=0)
    await grant(story, 100, currency="USD")
    (invoice, other, *_) = await drafts(story)
    assert await use(story, invoice, 250) == [(soon, 100), (late, 100), (never, 50)]
    assert await use(story, other, 250) == [(never, 50)]


async def test_nothing_is_used_on_an_invoice_of_nothing(story: Story) -> None:
    await grant(story, 100)
    (invoice, *_) = await drafts(story)
    assert await use(story, invoice, 0) == []
    assert await use(story, invoice, -50) == []
    async with story.database.tenant(story.tenant_id, "test") as tx:
        assert await credit.balances_of(tx, story.customer_id, START) == [Money(100, "EUR")]
