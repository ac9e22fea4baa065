"""The story of a subscription: free, pro, first invoice, usage, cycle invoice, correction."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from billing.story import FLAT_MINOR, PERIODS, PRO, START, Story, publish_plan
from libs.clock import floor_to_minute
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import (
    CompleteInvoice,
    CustomerCreated,
    InvoiceFinalized,
    InvoicePaid,
    PlanPublished,
    SubscriptionChanged,
    UsagePeriodClosed,
)
from libs.contracts.stripe_sync import StripeCommandFailed
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.billing import jobs

USAGE = [{"api_calls": ["2600"], "storage": ["10"]}]
# 1600 billable: 1000 at 0.5 and 600 at 0.25; 10 at 3.
API_MINOR, STORAGE_MINOR = 650, 30
CYCLE_MINOR = FLAT_MINOR + API_MINOR + STORAGE_MINOR


async def begin(billing: Database, log: MemoryLog, **parts: Any) -> Story:
    plan = await publish_plan(billing, parts.pop("plan", None))
    story = Story(billing, log, plan.plan_version_id, **({"usage": USAGE} | parts))
    story.begin()
    return story


async def checksums(database: TestDatabase) -> dict[str, str]:
    """A digest of every table of the schema that a replay must not change."""
    async with database.admin() as admin:
        tables = await admin.fetch(
            "select relname from pg_class where relnamespace = 'billing'::regnamespace "
            "and relkind = 'r' and relname not in ('fence', 'inbox', 'stream_position')"
        )
        found = {}
        for (table,) in tables:
            row = "to_jsonb(t) - 'sent_at'" if table == "outbox" else "to_jsonb(t)"
            found[table] = await admin.fetchval(
                f"select count(*) || md5(coalesce(string_agg(({row})::text, ',' "
                f"order by ({row})::text), '')) from billing.{table} t"
            )
        return found


async def test_a_tenant_begins_as_its_own_customer_on_free(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await story.deliver("tenants")
    (customer,) = story.told(CustomerCreated)
    assert customer.data.customer_id == story.customer_id
    assert customer.data.billed_by == "platform"
    (subscription,) = story.told(SubscriptionChanged)
    assert (subscription.data.plan_key, subscription.data.status) == ("free", "active")
    assert (subscription.data.version, subscription.data.currency) == (1, "EUR")
    assert subscription.data.period_from is None
    free = [event for event in log.events(PlanPublished) if event.data.key == "free"]
    assert [event.data.prices for event in free] == [()]


async def test_the_free_plan_exists_once_per_mode_and_may_get_limits(
    billing: Database, log: MemoryLog
) -> None:
    for _ in range(2):
        await jobs.ensure_free_plans(billing)
    limited = {"limits": [{"meter": "api_calls", "amount": "100", "kind": "hard"}]}
    free = {"key": "free", "name": "Free", "interval": "month", "currency": "EUR"}
    newer = await publish_plan(billing, free | {"collection": "sluice"} | limited)
    story = await begin(billing, log)
    await story.deliver("tenants")
    told = [event for event in log.events(PlanPublished) if event.data.key == "free"]
    assert [(event.mode, event.data.version) for event in told] == [
        ("test", 1),
        ("live", 1),
        ("test", 2),
    ]
    (subscription,) = story.told(SubscriptionChanged)
    assert subscription.data.plan_version_id == newer.plan_version_id


async def test_buying_a_plan_moves_the_same_subscription(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    changes = [event.data for event in story.told(SubscriptionChanged)]
    assert [change.plan_key for change in changes] == ["free", "pro", "pro"]
    assert [change.version for change in changes] == [1, 2, 3]
    assert len({change.subscription_id for change in changes}) == 1
    assert changes[1].period_from == floor_to_minute(PERIODS[0])
    assert changes[1].period_to == floor_to_minute(PERIODS[1])
    assert len(await story.rows("select from subscription")) == 1
    # The audit log has what was bought before and after, and no renewals.
    recorded = [event.data for event in story.told(ConfigurationChanged)]
    assert [each.action for each in recorded] == ["subscription.created", "subscription.changed"]
    created, bought = recorded
    assert (created.actor, created.before, bought.actor) == ("system", None, "stripe")
    assert bought.before == created.after
    assert (bought.before or {})["plan"] == "free"
    assert (bought.after or {})["plan"] == "pro"


async def test_the_first_invoice_is_the_flat_fee_and_nothing_else(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await story.deliver("tenants")
    for _ in range(4):
        await story.deliver("payments")
    (final,) = story.told(InvoiceFinalized)
    assert [(line.kind, line.amount_minor) for line in final.data.lines] == [("flat", FLAT_MINOR)]
    (paid,) = story.told(InvoicePaid)
    assert paid.data.paid_minor == final.data.total_minor == FLAT_MINOR
    assert paid.data.number == final.data.number == "ACME-in_first"
    assert not story.told(UsagePeriodClosed)
    assert not story.told(CompleteInvoice)


async def test_a_cycle_invoice_bills_the_fee_once_and_the_usage_of_the_ended_period(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    (closure,) = story.told(UsagePeriodClosed)
    assert closure.data.meters == ("api_calls", "storage")
    assert closure.data.period_from == floor_to_minute(PERIODS[0])
    assert closure.data.period_to == floor_to_minute(PERIODS[1])
    (command,) = story.told(CompleteInvoice)
    assert [line.amount_minor for line in command.data.lines] == [API_MINOR, STORAGE_MINOR]
    cycle = story.told(InvoiceFinalized)[1].data
    assert [line.kind for line in cycle.lines] == ["flat", "usage", "usage"]
    assert sum(line.kind == "flat" for line in cycle.lines) == 1
    assert cycle.total_minor == cycle.subtotal_minor == CYCLE_MINOR
    assert sum(line.amount_minor for line in cycle.lines) == cycle.total_minor
    assert [event.data.paid_minor for event in story.told(InvoicePaid)] == [FLAT_MINOR, CYCLE_MINOR]


async def test_no_usage_is_a_line_of_zero(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log, usage=[{}])
    await story.tell_all()
    cycle = story.told(InvoiceFinalized)[1].data
    assert [(line.kind, line.quantity) for line in cycle.lines[1:]] == [("usage", Decimal(0))] * 2
    assert cycle.total_minor == FLAT_MINOR


async def test_a_plan_without_meters_is_completed_at_once(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, plan=PRO | {"prices": PRO["prices"][:1]})
    await story.tell_all()
    assert not story.told(UsagePeriodClosed)
    (command,) = story.told(CompleteInvoice)
    assert command.data.lines == ()
    assert story.told(InvoiceFinalized)[1].data.total_minor == FLAT_MINOR


async def test_a_changed_plan_does_not_change_what_was_bought(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    dearer = PRO["prices"][2] | {"tiers": [{"up_to": None, "unit_amount_minor": "99"}]}
    newer = await publish_plan(billing, PRO | {"prices": [*PRO["prices"][:2], dearer]})
    assert newer.version == 2
    await story.tell_all()
    assert story.told(InvoiceFinalized)[1].data.total_minor == CYCLE_MINOR


async def test_credit_is_used_up_but_never_more_than_the_invoice(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, credit_minor=10_000, cycles=2, usage=USAGE * 2)
    await story.tell_all()
    first, second = (event.data for event in story.told(InvoiceFinalized)[1:])
    assert first.credits_applied_minor == first.subtotal_minor == CYCLE_MINOR
    assert first.total_minor == 0
    assert second.credits_applied_minor == 10_000 - CYCLE_MINOR
    assert second.total_minor == 2 * CYCLE_MINOR - 10_000
    uses = await story.rows("select amount_minor from credit_use")
    assert sum(row["amount_minor"] for row in uses) == 10_000


async def test_late_usage_is_corrected_on_the_next_invoice(
    billing: Database, log: MemoryLog
) -> None:
    usage = [{"api_calls": ["2600", "3000", "3400"], "storage": ["10"]}, USAGE[0]]
    story = await begin(billing, log, usage=usage, cycles=2)
    await story.tell_all()
    lines = story.told(InvoiceFinalized)[2].data.lines
    corrections = [line for line in lines if "correction" in line.description]
    # 3400 - 1000 included: 1000 at 0.5 and 1400 at 0.25 is 850.
    assert [(line.amount_minor, line.quantity) for line in corrections] == [(200, Decimal(800))]
    assert len(lines) == 4
    (explained,) = await story.rows(
        "select explanation from invoice_line where description like '%correction%'"
    )
    assert explained["explanation"]["revision"] == 3
    assert explained["explanation"]["previously_invoiced"]["amount_minor"] == API_MINOR


async def test_a_correction_downwards_stays_due_where_the_invoice_is_too_small(
    billing: Database, log: MemoryLog
) -> None:
    no_fee = {"kind": "flat", "amount_minor": 0}
    meters_only = PRO | {"prices": [no_fee, *PRO["prices"][1:]]}
    usage = [
        {"api_calls": ["2600", "0"], "storage": ["100000", "0"]},
        {"storage": ["1"]},
        {},
    ]
    story = await begin(billing, log, plan=meters_only, usage=usage, cycles=3)
    await story.tell_all()
    totals = [event.data.total_minor for event in story.told(InvoiceFinalized)]
    assert totals[2:] == [0, 0]
    (left,) = await story.rows(
        "select sum(rated_minor - invoiced_minor)::bigint as due from usage_charge"
    )
    assert left["due"] == -(API_MINOR + 300_000) + (FLAT_MINOR + 3) + FLAT_MINOR


async def test_a_draft_that_stripe_finalized_first_leaves_its_usage_to_the_next(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, usage=USAGE * 2, cycles=2)
    await story.deliver("tenants")
    while len(story.queues["payments"]) > 2:
        await story.deliver("payments")
    story.queues["payments"].clear()
    story.say("payments", story.cycle_invoice(1, "paid", held=False), PERIODS[1])
    await story.tell_all()
    assert not story.told(CompleteInvoice)
    assert story.told(InvoiceFinalized)[1].data.total_minor == FLAT_MINOR
    story.renew(2)
    await story.tell_all()
    lines = story.told(InvoiceFinalized)[2].data.lines
    assert [line.amount_minor for line in lines] == [
        FLAT_MINOR,
        API_MINOR,
        STORAGE_MINOR,
        API_MINOR,
        STORAGE_MINOR,
    ]


async def test_a_total_that_stripe_does_not_confirm_is_not_booked(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    story.queues["payments"].clear()
    story.say("payments", story.subscription("active", 0), START)
    story.say("payments", story.invoice("in_first", "open", total_minor=1), START)
    await story.tell_all()
    assert not story.told(InvoiceFinalized)
    async with billing.maintenance() as tx:
        assert await tx.fetchval("select reason from parked_key") == "InvoiceTotalMismatchError"


async def test_usage_beyond_money_holds_the_draft_and_says_so(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log, usage=[{"storage": ["9" * 40]}])
    await story.tell_all()
    assert not story.told(CompleteInvoice)
    errors = await story.rows("select completion_error from invoice where status = 'draft'")
    assert [row["completion_error"] for row in errors] == ["usage_not_rateable"]
    async with billing.maintenance() as tx:
        assert await tx.fetchval("select count(*) from parked_key") == 0
    (closure,) = story.told(UsagePeriodClosed)
    story.measured(closure.data, "storage", 2, "10")
    await story.tell_all()
    assert story.told(InvoiceFinalized)[1].data.total_minor == FLAT_MINOR + STORAGE_MINOR


async def test_a_refused_command_shows_on_the_invoice_until_it_succeeds(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    while not story.told(CompleteInvoice):
        await story.deliver(next(name for name, queue in story.queues.items() if queue))
    (command,) = story.told(CompleteInvoice)
    failed = StripeCommandFailed(
        command_id=command.data.command_id, code="invoice_not_editable", detail="It is final."
    )
    story.queues["payments"].appendleft(story.event(failed, PERIODS[1]))
    await story.deliver("payments")
    errors = await story.rows("select completion_error from invoice where status = 'draft'")
    assert [row["completion_error"] for row in errors] == ["invoice_not_editable"]
    await story.tell_all()
    assert not await story.rows("select from invoice where completion_error is not null")


async def test_stripe_statuses_end_cancel_and_return(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log)
    await story.deliver("tenants")
    story.queues["payments"].clear()
    begun = {"stripe_subscription_id": "sub_0"}
    for status in ("incomplete", "incomplete_expired"):
        version = story.next_version("sub_0")
        story.say("payments", story.subscription(status, 0, version=version, **begun), START)
    for status in ("active", "past_due", "past_due", "canceled"):
        story.say("payments", story.subscription(status, 0), START)
    story.say("payments", story.subscription("active", 0, stripe_subscription_id="sub_2"), START)
    story.say("payments", story.subscription("canceled", 0), START)
    await story.tell_all()
    changes = [event.data for event in story.told(SubscriptionChanged)]
    assert [(c.plan_key, c.status) for c in changes] == [
        ("free", "active"),
        ("pro", "active"),
        ("pro", "past_due"),
        ("pro", "canceled"),
        ("pro", "active"),
    ]
    assert changes[-1].stripe_subscription_id == "sub_2"


async def test_a_second_live_stripe_subscription_bills_no_usage_twice(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    second = {"stripe_subscription_id": "sub_2"}
    story.say("payments", story.subscription("active", 0, version=1, **second), START)
    cycle = {"billing_reason": "subscription_cycle", "held": True, "period_end": PERIODS[1]}
    draft = story.invoice("in_cycle9", "draft", **cycle, **second)
    story.say("payments", draft, PERIODS[1])
    while story.queues["payments"]:
        story.log.publish(story.queues["payments"].popleft())
    await log.settle()
    assert len(story.told(UsagePeriodClosed)) == 1
    assert story.told(CompleteInvoice)[1].data.lines == ()
    assert story.told(SubscriptionChanged)[-1].data.stripe_subscription_id == "sub_1"


async def test_an_upgrade_at_the_periods_end_does_not_touch_the_ended_period(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    dearer = PRO["prices"][2] | {"tiers": [{"up_to": None, "unit_amount_minor": "99"}]}
    max_plan = PRO | {"key": "max", "prices": [*PRO["prices"][:2], dearer]}
    story.plan_version_id = (await publish_plan(billing, max_plan)).plan_version_id
    events = list(story.queues["payments"])
    renewed = next(
        index
        for index, event in enumerate(events)
        if event.type == "StripeSubscriptionChanged" and event.data.period_start == PERIODS[1]
    )
    upgraded = story.subscription("active", 1, version=events[renewed].data.version)
    story.queues["payments"][renewed] = story.event(upgraded, PERIODS[1])
    await story.tell_all()
    assert story.told(SubscriptionChanged)[-1].data.plan_key == "max"
    assert story.told(InvoiceFinalized)[1].data.total_minor == CYCLE_MINOR


async def test_replay_changes_nothing(
    billing: Database, log: MemoryLog, database: TestDatabase
) -> None:
    usage = [{"api_calls": ["2600", "3000"], "storage": ["10"]}, USAGE[0]]
    story = await begin(billing, log, usage=usage, cycles=2, credit_minor=700)
    await story.tell_all()
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before


async def test_the_database_refuses_a_second_invoice_and_any_change_of_a_final_one(
    billing: Database, log: MemoryLog
) -> None:
    story = await begin(billing, log)
    await story.tell_all()
    copied = (
        "insert into invoice select tenant_id, mode, gen_random_uuid(), customer_id, "
        "subscription_id, stripe_subscription_id, 'in_other', 1, reason, 'draft', null, currency, "
        "period_from, period_to, 0, 0, null, null, null, null, null, now() "
        "from invoice where stripe_invoice_id = 'in_cycle1'"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await story.rows(copied)
    for sql in (
        "update invoice set total_minor = total_minor + 1",
        "update invoice_line set amount_minor = 0",
        "delete from invoice_line",
    ):
        with pytest.raises(asyncpg.RaiseError, match="never change"):
            await story.rows(sql)
    for table in ("plan_version", "period_usage", "credit_use", "usage_closure"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await story.rows(f"delete from {table}")


async def test_another_tenant_sees_nothing(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log, credit_minor=500)
    await story.tell_all()
    stranger = Story(billing, log, None, name="globex")
    for table in ("customer", "subscription", "invoice", "invoice_line", "usage_charge"):
        assert await story.rows(f"select from {table}")
        assert not await stranger.rows(f"select from {table}")
    async with billing.tenant(story.tenant_id, "live") as tx:
        assert not await tx.fetch("select from invoice")


async def test_a_plan_nobody_knows_is_left_alone(billing: Database, log: MemoryLog) -> None:
    story = await begin(billing, log)
    story.plan_version_id = None
    story.queues["payments"].clear()
    story.say("payments", story.subscription("active", 0), START + timedelta(seconds=1))
    story.say("payments", story.invoice("in_first", "paid"), START)
    await story.tell_all()
    assert [event.data.plan_key for event in story.told(SubscriptionChanged)] == ["free"]
    assert not story.told(InvoiceFinalized)
    assert len(await story.rows("select from waiting_fact")) == 1
