"""Periods that no cycle invoice ends: each moment of a subscription is closed once, and comes on an invoice."""

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.story import FLAT_MINOR, PERIODS, PRO, START, Story, publish_plan
from billing.test_story import checksums
from libs.clock import floor_to_minute
from libs.contracts.billing import CreditLimitSet, InvoiceFinalized, UsagePeriodClosed
from libs.contracts.stripe_sync import StripeInvoiceChanged, StripeInvoiceLine
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.billing import prepaid
from services.billing.periods import cut_off
from services.billing.usage import not_closed

DAY = timedelta(days=1)
CHANGED = START + 10 * DAY
YEAR_ENDS = CHANGED + 365 * DAY
YEARLY: dict[str, Any] = PRO | {
    "key": "pro-yearly",
    "interval": "year",
    "prices": [
        PRO["prices"][0],
        PRO["prices"][2] | {"tiers": [{"up_to": None, "unit_amount_minor": "1"}]},
    ],  # type: ignore[index, operator]
}
MONTHS_USE = {"api_calls": ["2600"], "storage": ["10"]}
# 1600 billable: 1000 at 0.5 and 600 at 0.25; 10 at 3; in the year 40 at 1.
MONTHS_MINOR, YEARS_MINOR = [650, 30], 40


async def begin(billing: Database, log: MemoryLog, **parts: Any) -> Story:
    """A tenant on the monthly plan, in its first period."""
    plan = await publish_plan(billing)
    usage = [MONTHS_USE, {"storage": ["40"]}]
    story = Story(billing, log, plan.plan_version_id, **({"usage": usage} | parts))
    story.begin()
    for topic in ("tenants", *["payments"] * 4):
        await story.deliver(topic)
    story.queues["payments"].clear()
    return story


def began(
    story: Story, name: str, reason: str, period: tuple[datetime, datetime], **changes: Any
) -> StripeInvoiceChanged:
    """The invoice with which a period begins, final at once."""
    line = StripeInvoiceLine(
        stripe_line_id=f"il_{name}",
        description="1 x Pro",
        amount_minor=FLAT_MINOR,
        proration=False,
        price_id="price_1",
        line_id=None,
        period_start=period[0],
        period_end=period[1],
    )
    members: dict[str, Any] = {
        "billing_reason": reason,
        "period_start": period[0],
        "period_end": period[0],
        "lines": (line,),
        "total_minor": FLAT_MINOR,
        "amount_paid_minor": 0,
    }
    return story.invoice(name, changes.pop("status", "open"), **(members | changes))


async def change_to_a_year(story: Story, *, invoice_first: bool = False) -> None:
    """Stripe cuts the month off, begins a year and bills it at once."""
    yearly = await publish_plan(story.database, YEARLY)
    year = CHANGED, YEAR_ENDS
    facts = [
        story.subscription(
            "active",
            0,
            period_start=CHANGED,
            period_end=YEAR_ENDS,
            plan_version_id=yearly.plan_version_id,
        ),
        began(story, "in_change", "subscription_update", year),
    ]
    story.plan_version_id = yearly.plan_version_id
    for fact in reversed(facts) if invoice_first else facts:
        story.say("payments", fact, CHANGED)


def end_the_year(story: Story) -> None:
    """The year's cycle invoice, held."""
    later = story.subscription(
        "active", 0, period_start=YEAR_ENDS, period_end=YEAR_ENDS + 365 * DAY
    )
    story.say("payments", later, YEAR_ENDS)
    draft = story.cycle_invoice(1, "draft", period_start=CHANGED, period_end=YEAR_ENDS)
    story.say("payments", draft, YEAR_ENDS)


def closed(story: Story) -> list[tuple[datetime, datetime]]:
    asked = [event.data for event in story.told(UsagePeriodClosed)]
    return sorted((each.period_from, each.period_to) for each in asked)


def minutes(*times: datetime) -> list[tuple[datetime, datetime]]:
    """The periods between times, as billing has them."""
    return list(itertools.pairwise(floor_to_minute(time) for time in times))


@pytest.mark.parametrize("invoice_first", [False, True])
async def test_the_use_of_a_month_that_became_a_year_is_on_the_next_invoice_that_takes_lines(
    billing: Database, log: MemoryLog, database: TestDatabase, invoice_first: bool
) -> None:
    # Given a month that is cut off by the change to a year,
    story = await begin(billing, log)
    await change_to_a_year(story, invoice_first=invoice_first)
    await story.tell_all()
    # when the change is known, then the month is closed as far as it went,
    assert closed(story) == minutes(START, CHANGED)
    # and what it was used, by the prices it was bought at, is due.
    assert [event.data.total_minor for event in story.told(InvoiceFinalized)] == [FLAT_MINOR] * 2
    end_the_year(story)
    await story.tell_all()
    assert closed(story) == minutes(START, CHANGED, YEAR_ENDS)
    lines = story.told(InvoiceFinalized)[-1].data.lines
    assert [line.amount_minor for line in lines] == [FLAT_MINOR, *MONTHS_MINOR, YEARS_MINOR]
    assert [line.period_to for line in lines[1:3]] == [floor_to_minute(CHANGED)] * 2
    words = ["1 x Pro", "api_calls: 2600 (2026-01-15 to 2026-01-25)"]
    assert [line.description for line in lines][:2] == words
    assert lines[3].description == "storage: 40"
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before


async def test_a_draft_waits_for_the_use_of_the_period_that_was_cut_off_before(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await change_to_a_year(story)
    end_the_year(story)
    while story.queues["payments"]:
        await story.deliver("payments")
    # Given answers in another order than that of the questions; what no money pays is held back.
    answers = story.queues["metering"]
    answers.rotate(1)
    first = story.told(UsagePeriodClosed)[0].data
    storage = answers.pop()
    story.measured(first, "storage", 1, "9" * 40)
    while answers:
        await story.deliver("metering")
    drafts = await story.rows(
        "select completion_error, awaits_usage from invoice where status = 'draft'"
    )
    assert [tuple(row) for row in drafts] == [("usage_not_rateable", True)]
    story.measured(first, "storage", 2, str(storage.data.quantity))
    await story.tell_all()
    lines = story.told(InvoiceFinalized)[-1].data.lines
    assert [line.amount_minor for line in lines] == [FLAT_MINOR, *MONTHS_MINOR, YEARS_MINOR]


@pytest.mark.parametrize("ended_at", [CHANGED, PERIODS[1]])
async def test_what_a_subscription_was_used_before_it_ended_is_rated_and_due(
    billing: Database, log: MemoryLog, ended_at: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    story = await begin(billing, log)
    # Given a subscription that ends, at once or at its period's end, without an invoice,
    for version in range(2):
        ended = story.subscription(
            "canceled", 0, ended_at=ended_at, cancel_at_period_end=bool(version)
        )
        story.say("payments", ended, ended_at)
    await story.tell_all()
    assert closed(story) == minutes(START, ended_at)
    assert "usage_without_invoice" in capsys.readouterr().out
    # when the customer buys again,
    again = START + 100 * DAY
    bought = {"stripe_subscription_id": "sub_2", "period_end": again + 30 * DAY}
    first = story.subscription("active", 0, version=1, period_start=again, **bought)
    story.say("payments", first, again)
    end = {"period_start": again, "period_end": again + 30 * DAY}
    story.say(
        "payments", story.cycle_invoice(1, "draft", stripe_subscription_id="sub_2", **end), again
    )
    await story.tell_all()
    # then the first invoice that takes lines has it; nothing between was anybody's.
    assert closed(story) == minutes(START, ended_at) + minutes(again, again + 30 * DAY)
    lines = story.told(InvoiceFinalized)[-1].data.lines
    assert [line.amount_minor for line in lines][:3] == [FLAT_MINOR, *MONTHS_MINOR]


async def test_a_change_and_an_end_that_are_seen_together_and_late_are_rated_by_what_held(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    yearly = await publish_plan(billing, YEARLY)
    year = {"period_start": CHANGED, "period_end": YEAR_ENDS, "ended_at": CHANGED + DAY}
    ended = story.subscription("canceled", 0, plan_version_id=yearly.plan_version_id, **year)
    story.say("payments", ended, CHANGED + 3 * DAY)
    await story.tell_all()
    assert closed(story) == minutes(START, CHANGED, CHANGED + DAY)
    charges = await story.rows(
        "select rated_minor from usage_charge c join usage_closure u on u.id = c.closure_id "
        "order by u.period_from, c.meter"
    )
    assert [row["rated_minor"] for row in charges] == [*MONTHS_MINOR, YEARS_MINOR]


async def test_a_final_cycle_invoice_of_an_ended_subscription_takes_its_use(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    story.say("payments", story.subscription("canceled", 0, ended_at=PERIODS[1]), PERIODS[1])
    story.say("payments", story.cycle_invoice(1, "draft"), PERIODS[1])
    await story.tell_all()
    assert closed(story) == minutes(START, PERIODS[1])
    lines = story.told(InvoiceFinalized)[-1].data.lines
    assert [line.amount_minor for line in lines] == [FLAT_MINOR, *MONTHS_MINOR]


async def test_a_trial_and_a_pause_that_end_now_end_the_period_before(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, usage=[MONTHS_USE, {}, {}])
    resumed = PERIODS[1] + 5 * DAY
    for status, begins, ends in (
        ("trialing", START, PERIODS[2]),
        ("active", CHANGED, PERIODS[1]),
        ("paused", CHANGED, PERIODS[1]),
        ("active", resumed, resumed + 30 * DAY),
    ):
        fact = story.subscription(status, 0, period_start=begins, period_end=ends)
        story.say("payments", fact, begins)
    await story.tell_all()
    assert closed(story) == minutes(START, CHANGED, resumed)


async def test_a_change_of_plan_within_the_period_closes_nothing(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    dearer = await publish_plan(billing, PRO | {"key": "max"})
    moved = story.subscription("active", 0, plan_version_id=dearer.plan_version_id)
    story.say("payments", moved, CHANGED)
    proration = story.invoice("in_more", "open", billing_reason="subscription_update")
    story.say("payments", proration, CHANGED)
    await story.tell_all()
    assert closed(story) == []


async def test_what_credit_buys_counts_a_period_that_was_cut_off_until_it_is_invoiced(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, credit_minor=20_000)
    async with billing.tenant(story.tenant_id, "test") as tx:
        await prepaid.choose(tx, story.customer_id, ["storage"], START, actor="key_operator")
    await log.settle()
    await change_to_a_year(story)
    await story.tell_all()

    def told() -> tuple[datetime, Decimal | None]:
        fact = story.told(CreditLimitSet)[-1].data
        return fact.since, fact.amount

    # One fee is to come. Both periods may be used up to the half of the rest, at 3 in the month.
    assert told() == (
        floor_to_minute(START),
        (Decimal((20_000 - FLAT_MINOR) // 2) / 3).quantize(Decimal("0.000001"), ROUND_FLOOR),
    )
    end_the_year(story)
    await story.tell_all()
    left = 20_000 - FLAT_MINOR - sum(MONTHS_MINOR) - YEARS_MINOR - FLAT_MINOR
    assert told() == (floor_to_minute(YEAR_ENDS), Decimal(left))


def history(chance: random.Random) -> list[tuple[datetime, datetime, str]]:
    """Periods of a subscription, each with the reason of the invoice it began with; the last is cut off."""
    begun, reason, periods = START, "subscription_create", []
    for _ in range(chance.randint(2, 5)):
        end = begun + chance.choice([30, 365]) * DAY
        is_cut = chance.random() < 0.5
        periods.append((begun, end, reason))
        begun = begun + timedelta(minutes=chance.randint(1, 20 * 1440)) if is_cut else end
        reason = "subscription_update" if is_cut else "subscription_cycle"
    return [*periods, (begun, begun + 30 * DAY, reason)]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_seen_and_in_which_order_each_moment_is_closed_once(
    billing: Database, log: MemoryLog, seed: int
) -> None:
    chance = random.Random(seed)
    plan = await publish_plan(billing)
    periods = history(chance)
    story = Story(billing, log, plan.plan_version_id, usage=[{}] * 20)
    story.begin()
    await story.deliver("tenants")
    story.queues["payments"].clear()
    # Given any of the states between the first and the last, which Stripe may have passed through unseen,
    states = [story.subscription("active", 0, period_start=b, period_end=e) for b, e, _ in periods]
    unseen = {state.version for state in states[1:-1] if chance.random() < 0.4}
    # and the invoices that periods begin with, in any order, some twice,
    bills = [
        began(story, f"in_{place}", reason, (begun, end), **_ended(periods, place))
        for place, (begun, end, reason) in enumerate(periods)
    ]
    again = chance.sample(bills, 2)
    bills = chance.sample([*bills, *again], len(bills) + 2)
    queues = [[state for state in states if state.version not in unseen], bills]
    story.say("payments", queues[0].pop(0), START)
    while any(queues):
        fact = chance.choice([queue for queue in queues if queue]).pop(0)
        story.say("payments", fact, periods[-1][0])
    end = periods[-1][0] + DAY
    last = story.subscription(
        "canceled", 0, period_start=periods[-1][0], period_end=periods[-1][1], ended_at=end
    )
    story.say("payments", last, end)
    while story.queues["payments"]:
        log.publish(story.queues["payments"].popleft())
        await log.settle()
    # when all is told, then what is closed leaves no gap, and nothing is closed twice,
    found = closed(story)
    assert found[0][0] == floor_to_minute(START)
    assert found[-1][1] == floor_to_minute(end)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    # and where all states were seen, each period is one of its own.
    if not unseen:
        assert found == minutes(*(begun for begun, _, _ in periods), end)


def _ended(periods: Sequence[tuple[datetime, datetime, str]], place: int) -> dict[str, Any]:
    """Of a cycle invoice: the period that it ends, and that it is a draft."""
    begun, _, reason = periods[place]
    if reason != "subscription_cycle":
        return {}
    return {
        "status": "draft",
        "held": True,
        "period_start": periods[place - 1][0],
        "period_end": begun,
    }


async def test_the_database_refuses_to_close_a_moment_twice(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await change_to_a_year(story)
    await story.tell_all()
    copied = (
        "insert into usage_closure select tenant_id, mode, gen_random_uuid(), subscription_id, "
        "plan_version_id, null, period_from + {0}, period_to + {0} from usage_closure"
    )
    for shift in ("interval '0'", "interval '1 minute'", "- interval '1 minute'"):
        with pytest.raises(asyncpg.RaiseError, match="counted once"):
            await story.rows(copied.format(shift))
    await story.rows(copied.format("interval '10 days'"))


def at(day: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + day * DAY


DAYS = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(
    lambda drawn: (at(drawn[0]), at(sum(drawn)))
)


@given(DAYS, st.lists(st.integers(0, 60), unique=True, max_size=8))
def test_what_is_not_closed_and_what_is_make_up_the_period(
    period: tuple[datetime, datetime], cuts: list[int]
) -> None:
    ends = [at(day) for day in sorted(cuts)]
    others = list(itertools.pairwise(ends))[::2]
    inside = [each for each in others if each[0] < period[1] and each[1] > period[0]]
    left = not_closed(period, inside)
    days = {at(day) for day in range(61) if period[0] <= at(day) < period[1]}
    assert {day for day in days if any(b <= day < e for b, e in left)} == {
        day for day in days if not any(b <= day < e for b, e in inside)
    }
    assert all(period[0] <= begun < end <= period[1] for begun, end in left)


@given(st.lists(DAYS, max_size=8))
def test_what_was_cut_off_ends_where_the_next_begins(seen: list[tuple[datetime, datetime]]) -> None:
    found = cut_off(seen)
    assert found == cut_off(seen[::-1] + seen)
    begins = sorted({begun for begun, _ in seen})
    for begun, end in found:
        assert end == begins[begins.index(begun) + 1]
        assert any(one == begun and end < other for one, other in seen)
