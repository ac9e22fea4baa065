"""Thresholds and limits are told once in a period, whatever came in how; overages as they accrue."""

import asyncio
import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.billing import PlanLimit, PlanPublished, SubscriptionChanged
from libs.contracts.metering import LimitExceeded, LimitThresholdCrossed
from libs.contracts.tenants import ConfigRecord
from libs.directory.local import Directory
from libs.ids import new_id
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.world import Api, Party, World, checksums, publish_snapshot
from services.metering import intake, jobs

DAY = timedelta(days=1)


def plan_of(amount: str, kind: Literal["soft", "hard"] = "soft") -> PlanPublished:
    return PlanPublished(
        plan_id=new_id(),
        plan_version_id=new_id(),
        version=1,
        key="pro",
        name="Pro",
        interval="month",
        currency="EUR",
        collection="stripe",
        prices=(),
        limits=(PlanLimit(meter="api_calls", amount=Decimal(amount), kind=kind),),
    )


def subscription_of(
    party: Party, plan: PlanPublished, period: tuple[datetime, datetime] | None, **changes: Any
) -> SubscriptionChanged:
    fact = SubscriptionChanged(
        subscription_id=new_id(),
        version=1,
        customer_id=party.self_customer_id,
        billed_by="platform",
        plan_key=plan.key,
        plan_version_id=plan.plan_version_id,
        status="active",
        collection="stripe",
        currency="EUR",
        period_from=period[0] if period else None,
        period_to=period[1] if period else None,
    )
    return fact.model_copy(update=changes)


async def look(world: World) -> None:
    await jobs.look_at_limits(world.database, Directory(world.database))
    await world.log.settle()


def told(world: World) -> list[tuple[int, str]]:
    """What was told so far: percent and what was used then."""
    events = world.log.events(LimitThresholdCrossed)
    return [(each.data.percent, str(each.data.used)) for each in events]


def exceeded(world: World) -> list[tuple[str, str]]:
    return [(str(e.data.used), str(e.data.over)) for e in world.log.events(LimitExceeded)]


@pytest.fixture
async def now(api: Api, world: World) -> datetime:
    """With a meter of the platform's."""
    await api.meter(world.platform)
    return floor_to_minute(utc_now())


async def subscribe(
    world: World,
    party: Party,
    amount: str,
    now: datetime,
    kind: Literal["soft", "hard"] = "soft",
) -> SubscriptionChanged:
    plan = plan_of(amount, kind)
    fact = subscription_of(party, plan, (now - 3 * DAY, now + 27 * DAY))
    world.tell(world.platform, plan)
    world.tell(party, fact)
    await world.log.settle()
    await look(world)
    return fact


async def use(api: Api, world: World, party: Party, *amounts: int, **attributes: Any) -> None:
    events = [world.event(data={"calls": amount}, **attributes) for amount in amounts]
    await api.send(party, *events)
    await look(world)


async def test_each_threshold_is_told_once(
    api: Api, world: World, now: datetime, database: TestDatabase
) -> None:
    fact = await subscribe(world, world.acme, "10", now, "hard")
    await use(api, world, world.acme, 4)
    assert told(world) == []
    await use(api, world, world.acme, 1)
    assert told(world) == [(50, "5")]
    await use(api, world, world.acme, 5)
    assert told(world) == [(50, "5"), (80, "10"), (100, "10")]
    assert exceeded(world) == []
    await use(api, world, world.acme, 2)
    await use(api, world, world.acme, 3)
    assert (len(told(world)), exceeded(world)) == (3, [("12", "2")])
    (event,) = world.log.events(LimitExceeded)
    assert event.tenant_id == world.acme.id
    assert event.data == LimitExceeded(
        subscription_id=fact.subscription_id,
        customer_id=world.acme.self_customer_id,
        meter="api_calls",
        period_from=now - 3 * DAY,
        period_to=now + 27 * DAY,
        limit=Decimal(10),
        kind="hard",
        used=Decimal(12),
        over=Decimal(2),
    )
    report = (await api.get("/api/v1/usage/report", world.acme)).json()
    (limit,) = report["limits"]
    assert (limit["used"], limit["over"], limit["over_limit"]) == ("15", "5", True)
    # Nobody else was looked at, and there is nothing left to look at.
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.limit_mark") == 0

    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        await look(world)
        assert await checksums(database) == before
    assert (len(told(world)), len(exceeded(world))) == (3, 1)


async def test_what_came_before_the_plan_and_its_subscription_counts_too(
    api: Api, world: World, now: datetime
) -> None:
    await use(api, world, world.acme, 9)
    plan = plan_of("10")
    world.tell(world.acme, subscription_of(world.acme, plan, (now - DAY, now + DAY)))
    await world.log.settle()
    await look(world)
    assert told(world) == []
    world.tell(world.platform, plan)
    await world.log.settle()
    await look(world)
    assert told(world) == [(50, "9"), (80, "9")]


async def test_late_usage_is_held_against_its_own_period(
    api: Api, world: World, now: datetime
) -> None:
    plan = plan_of("10")
    first = subscription_of(world.acme, plan, (now - 30 * DAY, now - DAY))
    world.tell(world.platform, plan)
    world.tell(world.acme, first)
    await world.log.settle()
    await use(api, world, world.acme, 4, time=format_time(now - 2 * DAY))
    second = {"version": 2, "period_from": now - DAY, "period_to": now + 30 * DAY}
    world.tell(world.acme, first.model_copy(update=second))
    await world.log.settle()
    # A new period starts afresh, and the one before goes on to be watched.
    await use(api, world, world.acme, 6)
    assert told(world) == [(50, "6")]
    await use(api, world, world.acme, 4, time=format_time(now - 2 * DAY))
    periods = [each.data.period_from for each in world.log.events(LimitThresholdCrossed)]
    assert told(world)[1:] == [(50, "8"), (80, "8")]
    assert periods == [now - DAY, now - 30 * DAY, now - 30 * DAY]
    # A higher limit in the same period is another limit.
    upgraded = plan_of("100")
    world.tell(world.platform, upgraded)
    third = second | {"version": 3, "plan_version_id": upgraded.plan_version_id}
    world.tell(world.acme, first.model_copy(update=third))
    await world.log.settle()
    await use(api, world, world.acme, 50)
    assert told(world)[3:] == [(50, "56")]


@pytest.mark.parametrize("in_order", [True, False])
async def test_a_period_that_a_change_ended_is_held_against_no_later_use(
    api: Api, world: World, now: datetime, in_order: bool
) -> None:
    plan, larger = plan_of("10"), plan_of("100")
    first = subscription_of(world.acme, plan, (now - 10 * DAY, now + 20 * DAY))
    changed = {"version": 2, "period_from": now - DAY, "period_to": now + 29 * DAY}
    changed |= {"plan_version_id": larger.plan_version_id}
    for each in (plan, larger):
        world.tell(world.platform, each)
    facts = [first, first.model_copy(update=changed)]
    for fact in facts if in_order else reversed(facts):
        world.tell(world.acme, fact)
    await world.log.settle()
    await use(api, world, world.acme, 20)
    assert told(world) == []


async def test_usage_that_is_counted_during_a_look_is_looked_at_again(
    api: Api, world: World, now: datetime
) -> None:
    await subscribe(world, world.acme, "10", now)
    await api.send(world.acme, world.event(data={"calls": 1}))
    value = json.dumps(world.event(data={"calls": 7}) | {"mode": "test"}).encode()
    key = str(world.acme.id).encode()
    record = Record("usage.events", 0, 99, utc_now(), key, value)
    async with world.database.transaction() as tx:
        await intake.take([record], tx)
        looking = asyncio.create_task(
            jobs.look_at_limits(world.database, Directory(world.database))
        )
        # It sees nothing of this, and may not take the mark of it away.
        await asyncio.wait([looking], timeout=0.3)
        assert not looking.done()
    await looking
    assert told(world) == []
    await look(world)
    assert told(world) == [(50, "8"), (80, "8")]


async def test_a_tenant_has_thresholds_and_customers_of_its_own(
    api: Api, world: World, now: datetime
) -> None:
    # A plan without a period: its limits are of the month.
    await api.meter(world.globex)
    settings = ConfigRecord(
        namespace="notifications", version=1, values={"limit_thresholds_percent": [25, 150]}
    )
    snapshot = world.globex.snapshot.model_copy(update={"version": 2, "config": (settings,)})
    publish_snapshot(world.log, world.globex.id, snapshot)
    plan, customer = plan_of("10"), new_id()
    world.tell(world.globex, plan)
    fact = subscription_of(world.globex, plan, None, customer_id=customer, billed_by="tenant")
    world.tell(world.globex, fact)
    await world.log.settle()
    await use(api, world, world.globex, 15, subject=f"cus_{customer}")
    await use(api, world, world.globex, 15)
    assert told(world) == [(25, "15"), (150, "15")]
    (event, _) = world.log.events(LimitThresholdCrossed)
    assert event.data.period_from == now.replace(day=1, hour=0, minute=0)

    path = "/api/v1/limits/overages"
    (item,) = (await api.get(path, world.globex, customer=f"cus_{customer}")).json()["items"]
    assert (item["customer"], item["over"]) == (f"cus_{customer}", "5")
    assert (await api.get(path, world.globex, customer="self")).json()["items"] == []
    assert (await api.get(path, world.globex, customer="shop-7")).json()["items"] == []
    assert (await api.get(path, world.globex, meter="other")).json()["items"] == []
    assert (await api.get(path, world.acme)).json()["items"] == []


async def test_an_overage_accrues_and_may_be_taken_back(
    api: Api, world: World, now: datetime, database: TestDatabase
) -> None:
    fact = await subscribe(world, world.acme, "1", now)
    await use(api, world, world.acme, 3)
    await api.send(world.acme, world.event(data={"calls": 2}))
    path = "/api/v1/limits/overages"
    (item,) = (await api.get(path, world.acme)).json()["items"]
    assert item.pop("id").startswith("ovr_")
    assert item.pop("exceeded_at")
    assert item == {
        "meter": "api_calls",
        "customer": f"cus_{world.acme.self_customer_id}",
        "subscription": f"sub_{fact.subscription_id}",
        "kind": "soft",
        "limit": "1",
        "used": "5",
        "over": "4",
        "period_from": format_time(now - 3 * DAY),
        "period_to": format_time(now + 27 * DAY),
    }
    async with database.admin() as admin:
        await admin.execute("update metering.usage_minute set total = 0.5")
    await look(world)
    (item,) = (await api.get(path, world.acme)).json()["items"]
    assert item["over"] == "0"
    assert (len(told(world)), len(exceeded(world))) == (3, 1)


@pytest.mark.usefixtures("now")
async def test_where_nothing_is_limited_nothing_is_marked(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.send(world.acme, world.event(), world.event(subject=str(new_id())))
    plan = plan_of("10")
    world.tell(world.platform, plan)
    await world.log.settle()
    # Limited from now on; a customer without a subscription has no plan.
    await api.send(world.acme, world.event(subject=str(new_id())), world.event(subject="shop-7"))
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.limit_mark") == 0
    await api.send(world.acme, world.event())
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.limit_mark") == 1
    await look(world)
    assert told(world) == []
