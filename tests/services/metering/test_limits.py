"""Limits of plans and the tenant usage report."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.billing import PlanLimit, PlanPublished, SubscriptionChanged
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from metering.world import Api, Party, World
from services.metering import meters
from services.metering.glances import Asked, Glances
from services.metering.routes_limits import look_longer
from services.metering.unchanging import Unchanging


async def subscribe(
    world: World,
    party: Party,
    kind: Literal["soft", "hard"],
    amount: str,
    period: tuple[datetime, datetime],
) -> SubscriptionChanged:
    """Put the tenant on a plan with one limit."""
    plan = PlanPublished(
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
    fact = SubscriptionChanged(
        subscription_id=new_id(),
        version=2,
        customer_id=party.self_customer_id,
        billed_by="platform",
        plan_key="pro",
        plan_version_id=plan.plan_version_id,
        status="active",
        collection="stripe",
        currency="EUR",
        period_from=period[0],
        period_to=period[1],
    )
    # The subscription may arrive before its plan.
    world.tell(party, fact)
    world.tell(party, fact.model_copy(update={"version": 1, "plan_key": "old", "status": "paused"}))
    world.tell(world.platform, plan)
    await world.log.settle()
    return fact


async def test_hard_and_soft_limits(api: Api, world: World) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(world, world.acme, "hard", "10", period)
    await subscribe(world, world.globex, "soft", "1", period)
    before = world.event(time=format_time(now - timedelta(days=4)), data={"calls": 100})
    shop = world.event(subject="shop-7", data={"calls": 100})
    await api.send(world.acme, before, shop, world.event(data={"calls": 9}))
    await api.send(world.globex, world.event(data={"calls": 9}))

    answer = (await api.get("/api/v1/limits/check", world.acme, meter="api_calls")).json()
    as_of = answer.pop("as_of")
    assert as_of is not None
    assert answer == {
        "allowed": True,
        "meter": "api_calls",
        "used": "9",
        "reserved": "0",
        "limit": "10",
        "remaining": "1",
        "kind": "hard",
        "period_from": format_time(period[0]),
        "period_to": format_time(period[1]),
        "credit": None,
    }
    answer = await api.get("/api/v1/limits/check", world.acme, meter="api_calls", amount="1.5")
    assert answer.json()["allowed"] is False
    soft = (await api.get("/api/v1/limits/check", world.globex, meter="api_calls")).json()
    assert (soft["allowed"], soft["remaining"], soft["kind"]) == (True, "0", "soft")
    shop_check = await api.get(
        "/api/v1/limits/check", world.acme, meter="api_calls", customer="shop-7"
    )
    assert (shop_check.json()["limit"], shop_check.json()["used"]) == (None, "100")


async def test_the_next_period_begins_when_the_last_one_ends(api: Api, world: World) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "hard", "10", (now - timedelta(days=30), now))
    at_the_end = world.event(time=format_time(now - timedelta(minutes=1)), data={"calls": 9})
    await api.send(world.acme, at_the_end, world.event(data={"calls": 2}))
    answer = (await api.get("/api/v1/limits/check", world.acme, meter="api_calls")).json()
    assert (answer["used"], answer["period_from"]) == ("2", format_time(now))


async def test_no_limit_is_unlimited_and_bad_questions_are_refused(api: Api, world: World) -> None:
    await api.meter(world.platform)
    path = "/api/v1/limits/check"
    answer = (await api.get(path, world.acme, meter="api_calls", amount="9" * 20)).json()
    assert (answer["allowed"], answer["limit"], answer["remaining"]) == (True, None, None)
    assert (await api.get(path, world.acme, meter="nothing")).status_code == 404
    for bad in ({}, {"meter": ""}, {"meter": "a", "amount": "-1"}, {"meter": "a", "amount": "1e9"}):
        assert (await api.get(path, world.acme, **bad)).status_code == 422


async def test_the_report_of_a_tenant(api: Api, world: World) -> None:
    await api.meter(world.platform)
    await api.meter(world.acme, key="own", aggregation="count", value_path=None)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    fact = await subscribe(world, world.acme, "soft", "5", period)
    await api.send(
        world.acme,
        world.event(data={"calls": 4}),
        world.event(data={"calls": 2}, userid="bob"),
        world.event(data={"calls": 1}, userid=None),
        world.event(data={"calls": 50}, time=format_time(now - timedelta(days=4))),
    )
    report = (await api.get("/api/v1/usage/report", world.acme)).json()
    assert report["tenant"] == {
        "id": str(world.acme.id),
        "name": "Acme",
        "type": "organization",
    }
    assert report["period"] == {"from": format_time(period[0]), "to": format_time(period[1])}
    assert (report["plan"], report["subscription_status"]) == ("pro", "active")
    assert report["subscription_id"] == f"sub_{fact.subscription_id}"
    assert report["limits"] == [
        {
            "meter": "api_calls",
            "amount": "5",
            "kind": "soft",
            "used": "7",
            "over": "2",
            "overage_allowed": True,
            "over_limit": False,
        }
    ]
    assert report["overages_allowed"] is True
    metric = next(each for each in report["metrics"] if each["meter"] == "api_calls")
    assert (metric["total"], metric["count"]) == ("7", 3)
    assert {each["user"]: each["total"] for each in metric["by_user"]} == {
        "ann": "4",
        "bob": "2",
        None: "1",
    }
    assert report["summary"] == {"metrics": 2, "total_usage": "10", "unique_users": 2}
    other = (await api.get("/api/v1/usage/report", world.globex)).json()
    assert (other["plan"], other["limits"], other["summary"]["total_usage"]) == (None, [], "0")
    wide = {"from_": format_time(now - timedelta(days=5)), "to": format_time(now)}
    longer = (await api.get("/api/v1/usage/report", world.acme, **wide)).json()
    assert longer["summary"]["total_usage"] != "10"


async def test_the_report_holds_only_its_own_use_against_the_tenants_limit(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(world, world.acme, "hard", "10", period)
    of_a_customer = world.event(subject="shop-7", data={"calls": 100})
    await api.send(world.acme, world.event(data={"calls": 9}), of_a_customer)
    report = (await api.get("/api/v1/usage/report", world.acme)).json()
    check = (await api.get("/api/v1/limits/check", world.acme, meter="api_calls")).json()
    (limit,) = report["limits"]
    assert (limit["used"], limit["over"], limit["over_limit"]) == ("9", "0", False)
    assert limit["used"] == check["used"]
    assert report["metrics"][0]["total"] == "109"


async def test_the_report_lists_who_used_the_most(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.report.USERS_MAX", 2)
    await api.meter(world.platform)
    used = {"ann": 1, "bob": 5, "cyd": 3}
    await api.send(
        world.acme,
        *(world.event(userid=user, data={"calls": calls}) for user, calls in used.items()),
    )
    (metric,) = (await api.get("/api/v1/usage/report", world.acme)).json()["metrics"]
    listed = [(each["user"], each["total"]) for each in metric["by_user"]]
    assert (listed, metric["truncated"]) == ([("bob", "5"), ("cyd", "3")], True)
    monkeypatch.setattr("services.metering.report.USERS_MAX", 3)
    (metric,) = (await api.get("/api/v1/usage/report", world.acme)).json()["metrics"]
    assert (len(metric["by_user"]), metric["truncated"]) == (3, False)


async def test_a_meter_that_comes_later_stands_before_the_other_of_its_key(
    api: Api, world: World
) -> None:
    """A customer's limit is on the tenant's own meter, the tenant's on the platform's."""
    for key, party, customer, first, then in (
        ("sold", world.acme, "shop-7", world.platform, world.acme),
        ("bought", world.globex, None, world.globex, world.platform),
    ):
        counter = {"key": key, "aggregation": "count", "value_path": None}
        await api.meter(first, **counter)
        await api.send(party, world.event(subject=customer))
        asked = {"meter": key} | ({} if customer is None else {"customer": customer})
        for _ in range(2):
            answer = await api.get("/api/v1/limits/check", party, **asked)
            assert answer.json()["used"] == "1"
        await api.meter(then, **counter)
        for _ in range(2):
            answer = await api.get("/api/v1/limits/check", party, **asked)
            assert answer.json()["used"] == "0"


async def test_what_never_changes_is_asked_for_once(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(world, world.acme, "hard", "10", period)
    path, asked = "/api/v1/limits/check", {"meter": "api_calls"}
    assert (await api.get(path, world.acme, **asked)).json()["remaining"] == "10"
    await api.send(world.acme, world.event(data={"calls": 4}))
    async with database.admin() as admin:
        await admin.execute(
            "revoke select on metering.meter, metering.plan_version from sluice_metering"
        )
    assert (await api.get(path, world.acme, **asked)).json()["remaining"] == "6"
    assert (await api.get(path, world.acme, meter="other")).status_code == 500


def test_no_more_is_kept_at_hand_than_may_be() -> None:
    kept: Unchanging[str, int] = Unchanging(2)
    for number, name in enumerate("abc"):
        kept.keep(name, number)
    assert [kept.find(name) for name in "abc"] == [None, 1, 2]


async def test_a_look_in_one_statement_finds_what_many_find(api: Api, world: World) -> None:
    meter = await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(world, world.acme, "hard", "10", period)
    await api.send(world.acme, world.event(data={"calls": 4}), world.event(data={"calls": "0.5"}))
    await api.send(world.globex, world.event(data={"calls": 3}))
    async with world.database.tenant(world.acme.id, "test") as tx:
        (row,) = (await meters.applying(tx, [world.acme.id], "test")).values()
    assert str(row[0].id) in meter["id"]
    own = str(world.acme.self_customer_id)
    asked = Asked(world.acme.id, "test", row[0], ["", own], Decimal(5), utc_now(), UTC)
    glances, others = Glances(), replace(asked, customers=["shop-7"])
    longer = await look_longer(world.database, asked)
    for _ in range(2):
        glance = await glances.check(world.database, asked)
        assert glance is not None
        assert (glance.check, glance.last_received_at) == (longer.check, longer.last_received_at)
        assert (glance.standing.start, glance.standing.end) == period
        assert await glances.check(world.database, others) == await look_longer(
            world.database, others
        )
    next_month = replace(asked, now=period[1] + timedelta(minutes=1))
    glance = await glances.check(world.database, next_month)
    assert glance is not None
    assert (glance.check.used, glance.standing.start) == (Decimal(0), period[1])
    averages = replace(asked, meter=replace(row[0], aggregation="avg"))
    assert await glances.check(world.database, averages) is None


async def test_checks_that_share_a_statement_find_what_each_finds_alone(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "hard", "10", (now - timedelta(days=3), now))
    names = ["NULL", '{a,"b"}', "c\\d", *(f"shop-{number}" for number in range(3, 12))]
    told = [world.event(subject=name, data={"calls": number}) for number, name in enumerate(names)]
    await api.send(world.acme, world.event(data={"calls": 4}), *told)
    await api.send(world.globex, *(world.event(subject=name, data={"calls": 50}) for name in names))
    path, asked = "/api/v1/limits/check", [{"meter": "api_calls", "customer": n} for n in names]
    asked.insert(5, {"meter": "api_calls", "amount": "7"})
    alone = [(await api.get(path, world.acme, **each)).json() for each in asked]
    assert [each["used"] for each in alone] == [*"01234", "4", *"56789", "10", "11"]
    assert [each["allowed"] for each in alone] == [True] * 5 + [False] + [True] * 7
    answer = await api.post(path, world.acme, {"checks": asked})
    assert answer.json() == {"results": alone}
    theirs = (await api.post(path, world.globex, {"checks": asked})).json()["results"]
    assert [each["used"] for each in theirs] == ["50"] * 5 + ["0"] + ["50"] * 7


async def test_of_several_checks_the_first_that_fails_says_why(api: Api, world: World) -> None:
    await api.meter(world.platform)
    known, unknown = {"meter": "api_calls"}, {"meter": "nothing"}
    nobody = {"meter": "api_calls", "customer": "x" * 129}
    for checks, status in (
        ([known, unknown, known], 404),
        ([unknown] * 20, 404),
        ([known, nobody], 422),
    ):
        answer = await api.post("/api/v1/limits/check", world.acme, {"checks": checks})
        assert answer.status_code == status


async def test_a_period_that_was_replaced_since_the_last_look_is_not_used(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    fact = await subscribe(
        world, world.acme, "hard", "10", (now - timedelta(days=3), now + timedelta(days=27))
    )
    early = world.event(time=format_time(now - timedelta(days=2)), data={"calls": 4})
    await api.send(world.acme, early, world.event(data={"calls": 2}))
    path, asked = "/api/v1/limits/check", {"meter": "api_calls"}
    for _ in range(2):
        assert (await api.get(path, world.acme, **asked)).json()["used"] == "6"
    later = {"version": 3, "period_from": now - timedelta(days=1)}
    world.tell(world.acme, fact.model_copy(update=later))
    await world.log.settle()
    for _ in range(2):
        assert (await api.get(path, world.acme, **asked)).json()["used"] == "2"
    world.tell(world.acme, fact.model_copy(update={"version": 4, "plan_version_id": new_id()}))
    await world.log.settle()
    answer = (await api.get(path, world.acme, **asked)).json()
    assert (answer["used"], answer["limit"]) == ("6", None), "of its plan nothing was told yet"
