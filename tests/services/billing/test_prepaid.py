"""Prepaid use: what credit buys is told as quantities, anew with whatever changes it, and never too much."""

import itertools
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import pytest

from billing.story import FLAT_MINOR, PERIODS, PRO, START, Story, publish_plan
from billing.test_story import checksums
from libs.clock import floor_to_minute
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import CreditLimitSet, InvoiceFinalized
from libs.contracts.stripe_sync import StripeInvoiceLine
from libs.db.pool import Database
from libs.money import Money
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.billing import credit, credit_expiry, prepaid, store_credits
from services.billing.rating import rate
from services.billing.usage import metered_prices

BOTH = ["api_calls", "storage"]
SINCE = [floor_to_minute(at) for at in PERIODS]


async def begin(billing: Database, log: MemoryLog, **parts: Any) -> Story:
    """A tenant on the plan, before its first period ends."""
    plan = await publish_plan(billing)
    story = Story(billing, log, plan.plan_version_id, **parts)
    story.begin()
    for topic in ("tenants", "payments", "payments"):
        await story.deliver(topic)
    return story


async def choose(story: Story, meters: list[str], at: datetime = START) -> None:
    async with story.database.tenant(story.tenant_id, "test") as tx:
        await prepaid.choose(tx, story.customer_id, meters, at, actor="key_operator")
    await story.log.settle()


async def grant(story: Story, amount_minor: int, expires_at: datetime | None = None) -> None:
    async with story.database.tenant(story.tenant_id, "test") as tx:
        money = Money(amount_minor, "EUR")
        await credit.grant_credit(
            tx, story.customer_id, "platform", money, expires_at, START, actor="key_operator"
        )
    await story.log.settle()


def told(story: Story, meter: str = "api_calls") -> list[tuple[int, datetime, Decimal | None]]:
    facts = [event.data for event in story.told(CreditLimitSet) if event.data.meter == meter]
    return [(fact.version, fact.since, fact.amount) for fact in facts]


async def test_each_change_of_credit_tells_anew_what_it_buys(
    billing: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = await begin(billing, log)
    # Without credit there is what the plan includes. 1,000 cost 500, then one costs a quarter.
    await choose(story, ["api_calls"])
    await choose(story, ["api_calls"])
    await grant(story, FLAT_MINOR + 400)
    # The invoice of the period finds none that expires before it ends.
    await grant(story, 200, START + timedelta(days=3))
    async with billing.tenant(story.tenant_id, "test") as tx:
        await credit_expiry.expire(tx, START + timedelta(days=4))
    await log.settle()
    amounts = ["1000", "1800"]
    assert told(story) == [
        (place, SINCE[0], Decimal(amount)) for place, amount in enumerate(amounts, 1)
    ]
    # Shared in equal parts; what is not named any more is not bounded.
    await choose(story, BOTH)
    assert told(story)[-1][2] == Decimal(1400)
    assert told(story, "storage") == [(1, SINCE[0], Decimal("66.666666"))]
    await choose(story, ["storage"])
    assert told(story)[-1] == (4, SINCE[0], None)
    assert told(story, "storage")[-1][2] == Decimal("133.333333")
    await choose(story, [])
    assert told(story, "storage")[-1] == (3, SINCE[0], None)
    # Nor more grants than an invoice takes.
    await grant(story, 100, PERIODS[3])
    await choose(story, ["storage"])
    assert told(story, "storage")[-1][2] == Decimal("166.666666")
    monkeypatch.setattr(store_credits, "GRANTS_PER_INVOICE_MAX", 1)
    await choose(story, ["storage"])
    assert told(story, "storage")[-1][2] == Decimal(0)
    await choose(story, [])
    chosen = [
        (event.data.before, event.data.after)
        for event in story.told(ConfigurationChanged)
        if event.data.action == "customer.prepaid_changed"
    ]
    lists = ["", "api_calls", "api_calls, storage", "storage", "", "storage", ""]
    assert chosen == [
        ({"meters": before}, {"meters": after}) for before, after in itertools.pairwise(lists)
    ]


async def test_who_uses_all_that_was_told_pays_all_of_it_with_credit(
    billing: Database, log: MemoryLog, database: TestDatabase
) -> None:
    # 10,000 less a fee of 4,900, in two parts: 1,000 included, 1,000 for 500, 8,200 for 2,050; 850 at 3.
    used = [{"api_calls": ["10200"], "storage": ["850"]}, {"api_calls": ["1000"]}]
    story = await begin(billing, log, usage=used, credit_minor=10_000, cycles=2)
    await choose(story, BOTH)
    assert told(story) == [(1, SINCE[0], Decimal(10_200))]
    assert told(story, "storage") == [(1, SINCE[0], Decimal(850))]
    await story.tell_all()
    first, cycle, last = (event.data for event in story.told(InvoiceFinalized))
    assert first.total_minor == FLAT_MINOR
    assert (cycle.subtotal_minor, cycle.total_minor) == (10_000, 0)
    # Nothing is left: only what is included may be used, from the period on that is on no invoice.
    assert last.total_minor == FLAT_MINOR
    assert told(story)[-1][1:] == (SINCE[2], Decimal(1_000))
    assert told(story, "storage")[-1][1:] == (SINCE[2], Decimal(0))
    sinces = [since for _, since, _ in told(story)]
    assert sinces == sorted(sinces)
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before


async def test_an_ended_period_counts_until_its_use_is_on_an_invoice(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(
        billing, log, usage=[{"api_calls": ["2000"], "storage": ["0"]}], credit_minor=20_000
    )
    await choose(story, ["api_calls"])
    # 15,100 after the fee buy 1,000 and 1,000 and 58,400.
    assert told(story) == [(1, SINCE[0], Decimal(60_400))]
    while story.queues["payments"]:
        await story.deliver("payments")
    # The next period runs and the one before is asked for: two fees are put aside, 5,100 for each.
    assert told(story)[1:] == [(2, SINCE[0], Decimal(20_400))]
    # What Stripe has put on the draft besides takes credit first: 3,600 for each.
    line = StripeInvoiceLine(
        stripe_line_id="il_seats",
        description="Seats",
        amount_minor=3_000,
        proration=True,
        price_id=None,
        line_id=None,
        period_start=PERIODS[0],
        period_end=PERIODS[1],
    )
    for extra in ((line,), ()):
        story.say("payments", story.cycle_invoice(1, "draft", extra=extra), PERIODS[1])
        await story.deliver("payments")
    assert [amount for _, _, amount in told(story)[2:]] == [Decimal(14_400), Decimal(20_400)]
    await story.tell_all()
    # Its use cost 500 and a fee: 14,600 are left, and one fee to come.
    assert told(story)[4:] == [(5, SINCE[1], Decimal(38_800))]


async def test_who_chooses_between_a_period_s_end_and_its_invoice_has_its_use_counted(
    billing: Database, log: MemoryLog
) -> None:
    usage = [{"api_calls": ["2000"], "storage": ["0"]}]
    story = await begin(billing, log, usage=usage, credit_minor=20_000)
    # Its first invoice, open and paid, and the next period.
    for _ in range(3):
        await story.deliver("payments")
    await choose(story, ["api_calls"], PERIODS[1])
    assert told(story)[-1][1] == SINCE[1]
    while story.queues["payments"]:
        await story.deliver("payments")
    assert told(story)[-1][1:] == (SINCE[0], Decimal(20_400))
    await story.tell_all()
    assert told(story)[-1][1:] == (SINCE[1], Decimal(38_800))


async def test_a_longer_month_that_ended_is_one_period(billing: Database, log: MemoryLog) -> None:
    usage = [{"api_calls": ["2000"], "storage": ["0"]}]
    story = await begin(billing, log, usage=usage, credit_minor=20_000)
    await choose(story, ["api_calls"])
    short = story.subscription("active", 1, period_end=PERIODS[1] + timedelta(days=28))
    story.queues["payments"].clear()
    story.say("payments", short, PERIODS[1])
    await story.deliver("payments")
    assert told(story)[-1] == (2, SINCE[0], Decimal(20_400))


async def test_a_short_period_and_a_month_that_ended_are_two(
    billing: Database, log: MemoryLog
) -> None:
    trial = PERIODS[0] + timedelta(days=14)
    plan = await publish_plan(billing)
    story = Story(billing, log, plan.plan_version_id, credit_minor=20_000)
    story.begin()
    for topic in ("tenants", "payments"):
        await story.deliver(topic)
    story.queues["payments"].clear()
    story.say("payments", story.subscription("active", 0, period_end=trial), START)
    await story.deliver("payments")
    await choose(story, ["api_calls"])
    begun = trial + timedelta(days=30)
    third = story.subscription(
        "active", 1, period_start=begun, period_end=begun + timedelta(days=31)
    )
    story.say("payments", third, begun)
    await story.deliver("payments")
    # 20,000 less three fees in three parts: 1,766 each.
    assert told(story)[-1][1:] == (SINCE[0], Decimal(2_000 + (1_766 - 500) * 4))


async def test_a_meter_that_costs_nothing_takes_no_share(billing: Database, log: MemoryLog) -> None:
    prices: Any = PRO["prices"]
    free = prices[1] | {"tiers": [{"up_to": None, "unit_amount_minor": "0"}]}
    plan = await publish_plan(
        billing, PRO | {"key": "calls", "prices": [prices[0], free, prices[2]]}
    )
    story = Story(billing, log, plan.plan_version_id, credit_minor=FLAT_MINOR + 400)
    story.begin()
    for topic in ("tenants", "payments", "payments"):
        await story.deliver(topic)
    await choose(story, BOTH)
    assert told(story) == []
    assert told(story, "storage") == [(1, SINCE[0], Decimal("133.333333"))]


def plan_of(key: str, *tiers: tuple[str | None, str]) -> dict[str, Any]:
    """A plan of the fee and one meter of which nothing is included."""
    prices: Any = PRO["prices"]
    calls = prices[1] | {
        "included": "0",
        "tiers": [{"up_to": end, "unit_amount_minor": unit} for end, unit in tiers],
    }
    return PRO | {"key": key, "prices": [prices[0], calls]}


async def test_each_of_two_periods_is_paid_for_whatever_its_share_of_the_use(
    billing: Database, log: MemoryLog
) -> None:
    steep = await publish_plan(billing, plan_of("steep", ("1000", "10"), (None, "1")))
    story = Story(
        billing, log, steep.plan_version_id, usage=[{}], credit_minor=20_000 + 2 * FLAT_MINOR
    )
    story.begin()
    for topic in ("tenants", "payments", "payments"):
        await story.deliver(topic)
    await choose(story, ["api_calls"])
    while story.queues["payments"]:
        await story.deliver("payments")
    amount = told(story)[-1][2]
    assert amount == Decimal(1_000)
    # A greatest value may be all of it in each of them.
    assert 2 * rate(metered_prices(steep)["api_calls"], amount).amount_minor <= 20_000


async def test_an_ended_period_is_reckoned_by_the_plan_that_it_is_rated_by(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(
        billing, log, usage=[{"api_calls": ["0"], "storage": ["0"]}], credit_minor=20_000
    )
    await choose(story, BOTH)
    cheap = await publish_plan(billing, plan_of("cheap", (None, "0.01")))
    story.queues["payments"].popleft()
    moved = story.subscription("active", 1, plan_version_id=cheap.plan_version_id)
    story.queues["payments"].appendleft(story.event(moved, PERIODS[1]))
    # Known to have begun, then closed and asked for: 10,200 in four parts, by the old prices.
    while story.queues["payments"]:
        await story.deliver("payments")
        assert told(story)[-1][1:] == (SINCE[0], Decimal(2_000 + (2_550 - 500) * 4))
        assert told(story, "storage")[-1][1:] == (SINCE[0], Decimal(850))
    await story.tell_all()
    assert told(story)[-1][1:] == (SINCE[1], Decimal((20_000 - 2 * FLAT_MINOR) * 100))
    assert told(story, "storage")[-1][2] is None


async def test_a_period_counts_until_each_of_its_meters_is_on_an_invoice(
    billing: Database, log: MemoryLog
) -> None:
    usage = [{"api_calls": ["2000"], "storage": ["100"]}, {}]
    story = await begin(billing, log, usage=usage, credit_minor=30_000)
    await choose(story, ["storage"])
    while story.queues["payments"]:
        await story.deliver("payments")
    await story.deliver("metering")
    held_up = story.queues["metering"].popleft()
    # The invoice of the next period takes up what is known of this one.
    story.renew(2)
    for topic in ["payments"] * 3 + ["metering"] * 2:
        await story.deliver(topic)
    left = 30_000 - 500 - FLAT_MINOR
    share = (left - 2 * FLAT_MINOR) // 2
    assert told(story, "storage")[-1][1:] == (
        SINCE[0],
        (Decimal(share) / 3).quantize(Decimal("0.000001"), ROUND_FLOOR),
    )
    story.queues["metering"].append(held_up)
    await story.tell_all()
    assert told(story, "storage")[-1][1] == SINCE[2]


async def test_use_that_comes_late_to_a_period_is_put_aside(
    billing: Database, log: MemoryLog
) -> None:
    usage = [{"api_calls": ["2000", "2400"], "storage": ["0"]}, {"api_calls": ["0"]}]
    story = await begin(billing, log, usage=usage, credit_minor=20_000, cycles=2)
    await choose(story, ["api_calls"])
    await story.tell_all()
    # The 400 more cost 100, on the invoice of the second period.
    left = 20_000 - 2 * FLAT_MINOR - 500 - 100 - FLAT_MINOR
    assert told(story)[-1][1:] == (SINCE[2], Decimal(2_000 + (left - 500) * 4))
    expected = left + FLAT_MINOR + 100 - FLAT_MINOR - 100
    assert any(amount == Decimal(2_000 + (expected - 500) * 4) for _, _, amount in told(story)), (
        "told before the correction is on an invoice"
    )


async def test_what_has_no_price_or_no_period_is_not_bounded(
    billing: Database, log: MemoryLog
) -> None:
    free = Story(billing, log, None)
    free.begin()
    await free.deliver("tenants")
    await choose(free, BOTH)
    assert free.told(CreditLimitSet) == []

    calls = PRO["prices"][1] | {"tiers": [{"up_to": None, "unit_amount_minor": "0"}]}  # type: ignore[operator,index]
    gift = await publish_plan(billing, PRO | {"key": "gift", "prices": [PRO["prices"][0], calls]})  # type: ignore[index]
    story = await begin(billing, log, name="globex")
    await choose(story, BOTH)
    assert told(story)[0][2] == Decimal(1_000)
    story.queues["payments"].clear()
    moved = story.subscription("active", 0, plan_version_id=gift.plan_version_id)
    story.say("payments", moved, START)
    await story.deliver("payments")
    assert told(story)[-1][2] is None
    assert told(story, "storage")[-1][2] is None
    back = story.subscription("active", 0)
    story.say("payments", back, START)
    story.say("payments", story.subscription("canceled", 0), START)
    await story.deliver("payments")
    assert told(story)[-1][2] == Decimal(1_000)
    await story.deliver("payments")
    assert told(story)[-1][2] is None
