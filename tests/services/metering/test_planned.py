"""Planned usage: declared ahead, held when it is due, and never more of it than limits leave."""

import asyncio
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.directory.local import Directory
from libs.testing.databases import TestDatabase
from metering.test_credit_limits import tell
from metering.test_limits import subscribe
from metering.world import Api, Party, World, checksums
from services.metering import jobs, planned, store_planned

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PATH = "/api/v1/usage/planned"
LIMIT = 10


@dataclass
class Stage:
    """Acme on a hard limit of ten calls for thirty days, and its clock."""

    api: Api
    world: World
    now: datetime
    version: int = 1

    @property
    def party(self) -> Party:
        return self.world.acme

    @property
    def period_end(self) -> datetime:
        return self.now + 27 * DAY

    async def plan(self, quantity: str = "1", after: timedelta = HOUR, **more: Any) -> Any:
        """Declare usage, `after` a while from when the stage was set."""
        body = {"meter": "api_calls", "quantity": quantity, "at": format_time(self.now + after)}
        answer = await self.api.post(PATH, self.party, body | more)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def pass_to(self, after: timedelta) -> None:
        """Let time pass on the tenant's clock, and do what is due by then."""
        self.version += 1
        # The stage was set some moments ago: never short of what is due.
        await self.world.move_clock(self.party, after + timedelta(minutes=1), self.version)
        await self.decide()

    async def decide(self) -> None:
        await jobs.decide_planned_usage(self.world.database, Directory(self.world.database))

    async def read(self, plan: Any) -> Any:
        answer = await self.api.get(f"{PATH}/{plan['id']}", self.party)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def became(self, plan: Any) -> list[tuple[str, str | None]]:
        """State and reason of each occurrence."""
        read = await self.read(plan)
        return [(each["state"], each["reason"]) for each in read["occurrences"]]

    async def standing(self) -> tuple[Decimal, Decimal]:
        """Used and reserved."""
        path = "/api/v1/limits/check"
        found = (await self.api.get(path, self.party, meter="api_calls")).json()
        return Decimal(found["used"]), Decimal(found["reserved"])

    async def use(self, calls: int) -> None:
        await self.api.send(self.party, self.world.event(time=None, data={"calls": calls}))

    async def reserve(self, amount: str = "1") -> Any:
        body = {"meter": "api_calls", "amount": amount}
        return await self.api.post("/api/v1/reservations", self.party, body)

    async def forecast(self) -> Any:
        path = "/api/v1/usage/forecast"
        return (await self.api.get(path, self.party, meter="api_calls")).json()


@pytest.fixture
async def stage(api: Api, world: World) -> Stage:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "hard", str(LIMIT), (now - 3 * DAY, now + 27 * DAY))
    return Stage(api, world, now)


async def test_what_is_planned_is_held_when_it_is_due_and_settled_with_what_was_used(
    stage: Stage,
) -> None:
    plan = await stage.plan("4", note="nightly import", user="ann")
    (foreseen,) = plan["occurrences"]
    assert (foreseen["state"], foreseen["outcome"]) == ("planned", "admitted")
    assert (foreseen["used"], foreseen["limit"], plan["every"]) == ("0", "10", None)
    assert (plan["next"], plan["last"]) == (foreseen, None)
    # Nothing weighs before it is due.
    await stage.decide()
    assert await stage.standing() == (0, 0)
    await stage.pass_to(HOUR)
    read = await stage.read(plan)
    assert read["next"] is None
    assert (read["last"]["state"], read["last"]["held"]) == ("admitted", "held")
    assert await stage.standing() == (0, 4)
    # Whoever runs it settles with what was really used.
    settle = f"/api/v1/reservations/{read['last']['reservation']}/settle"
    assert (await stage.api.post(settle, stage.party, {"amount": "3"})).status_code == 200
    await stage.world.log.settle()
    assert await stage.standing() == (3, 0)
    (ended,) = (await stage.read(plan))["occurrences"]
    assert (ended["held"], ended["settled_quantity"]) == ("settled", "3")
    await stage.decide()
    assert (await stage.read(plan))["occurrences"] == [ended]


async def test_what_finds_no_room_waits_for_the_next_period_or_is_refused(stage: Stage) -> None:
    await stage.use(8)
    once = await stage.plan("3")
    daily = await stage.plan("3", recurrence={"every": "day", "count": 2})
    too_much = await stage.plan("11")
    assert [each["occurrences"][0]["reason"] for each in (once, daily, too_much)] == [
        "next_period",
        "limit_reached",
        "over_limit",
    ]
    await stage.pass_to(HOUR)
    assert await stage.became(once) == [("deferred", "next_period")]
    assert await stage.became(daily) == [("refused", "limit_reached"), ("planned", "next_period")]
    assert await stage.became(too_much) == [("refused", "over_limit")]
    (waiting,) = (await stage.read(once))["occurrences"]
    assert (waiting["used"], waiting["limit"]) == ("8", "10")
    assert waiting["passes_at"] == format_time(stage.period_end)
    # It is tried again on schedule, and not decided otherwise by that.
    await stage.pass_to(2 * HOUR)
    assert await stage.became(once) == [("deferred", "next_period")]
    await stage.pass_to(27 * DAY)
    assert await stage.became(once) == [("admitted", None)]
    # So did the last of those that recur: nothing comes after it that it would have to give way to.
    assert (await stage.became(daily))[1] == ("admitted", None)
    assert await stage.standing() == (0, 6)


async def test_what_others_hold_is_tried_again(stage: Stage) -> None:
    held = (await stage.reserve("9")).json()
    plan = await stage.plan("2")
    await stage.pass_to(HOUR)
    assert await stage.became(plan) == [("deferred", "held")]
    await stage.api.post(f"/api/v1/reservations/{held['id']}/release", stage.party, {})
    await stage.decide()
    assert await stage.became(plan) == [("deferred", "held")]
    await stage.pass_to(HOUR + planned.TRIED_AGAIN_AFTER)
    assert await stage.became(plan) == [("admitted", None)]


async def test_what_credit_does_not_pay_for_waits_for_credit(stage: Stage) -> None:
    await stage.use(4)
    await tell(stage.world, stage.party, stage.now - DAY, "5")
    paid, never = await stage.plan("2"), await stage.plan("3")
    assert paid["occurrences"][0]["reason"] == "credit"
    await stage.pass_to(HOUR)
    assert await stage.became(paid) == [("deferred", "credit")]
    await tell(stage.world, stage.party, stage.now - DAY, "6", version=2)
    await stage.pass_to(2 * HOUR)
    assert await stage.became(paid) == [("admitted", None)]
    assert await stage.became(never) == [("deferred", "credit")]
    # Nobody topped it up in time.
    await stage.pass_to(HOUR + planned.WAITS_AT_MOST)
    assert await stage.became(never) == [("refused", "credit")]


async def test_many_at_once_get_exactly_what_there_is(stage: Stage) -> None:
    """Two workers decide the same, while as many others reserve of the same limit."""
    await stage.use(1)
    plans = [await stage.plan() for _ in range(9)]
    stage.version += 1
    await stage.world.move_clock(stage.party, 2 * HOUR, stage.version)
    answers = await asyncio.gather(
        stage.decide(), stage.decide(), *(stage.reserve() for _ in range(9))
    )
    reserved = [answer.status_code for answer in answers if answer is not None].count(201)
    states = [(await stage.became(plan))[0][0] for plan in plans]
    assert states.count("admitted") + reserved == LIMIT - 1
    assert set(states) <= {"admitted", "deferred"}
    # Each of them is held once, whoever decided it.
    assert await stage.standing() == (1, LIMIT - 1)


async def test_an_hour_that_nobody_looked_at_is_missed_and_the_next_one_is_not(
    stage: Stage,
) -> None:
    plan = await stage.plan("2", recurrence={"every": "day", "count": 4})
    await stage.pass_to(2 * DAY + 2 * HOUR)
    assert await stage.became(plan) == [
        ("refused", "missed"),
        ("refused", "missed"),
        ("admitted", None),
        ("planned", None),
    ]


async def test_it_is_canceled_with_what_it_holds_and_nobody_else_s(stage: Stage) -> None:
    api, globex = stage.api, stage.world.globex
    plan = await stage.plan("2", recurrence={"every": "week", "count": 3})
    await stage.pass_to(HOUR)
    assert await stage.standing() == (0, 2)
    place = f"{PATH}/{plan['id']}"
    for answer in (
        await api.get(place, globex),
        await api.client.delete(place, headers={"X-API-Key": globex.keys[0]}),
        await api.get(f"{PATH}/pln_nothing", stage.party),
        await api.get(f"{PATH}/rsv_{plan['id'].partition('_')[2]}", stage.party),
    ):
        assert answer.status_code == 404
    reads_only = {"X-API-Key": stage.party.keys[1]}
    assert (await api.client.delete(place, headers=reads_only)).status_code == 403
    assert (await api.get(PATH, globex)).json()["items"] == []
    for _ in range(2):
        answer = await api.client.delete(place, headers={"X-API-Key": stage.party.keys[0]})
        assert answer.status_code == 200
        states = [each["state"] for each in answer.json()["occurrences"]]
        assert states == ["admitted", "canceled", "canceled"]
        assert (answer.json()["last"]["held"], answer.json()["next"]) == ("released", None)
    assert await stage.standing() == (0, 0)
    assert (await stage.forecast())["planned"] == "0"
    await stage.pass_to(8 * DAY)
    assert (await stage.became(plan))[1] == ("canceled", None)


async def test_the_list_says_what_is_next_and_what_became_of_the_last(stage: Stage) -> None:
    daily = await stage.plan("2", recurrence={"every": "day", "count": 3})
    shop = await stage.plan("5", customer="shop-7")
    await stage.pass_to(HOUR)

    async def listed(**params: Any) -> list[str]:
        page = (await stage.api.get(PATH, stage.party, **params)).json()
        return [item["id"] for item in page["items"]]

    items = (await stage.api.get(PATH, stage.party)).json()["items"]
    assert [item["id"] for item in items] == [shop["id"], daily["id"]]
    assert (items[1]["next"]["number"], items[1]["last"]["number"]) == (2, 1)
    assert (items[0]["next"], items[0]["last"]["state"]) == (None, "admitted")
    assert (items[0]["customer"], items[0]["last"]["limit"]) == ("shop-7", None)
    assert await listed(customer="self", meter="api_calls") == [daily["id"]]
    assert await listed(customer="shop-7") == [shop["id"]]
    assert await listed(meter="api_calls", limit=1) == [shop["id"]]
    assert await listed(open="true") == [daily["id"]]
    canceled = f"{PATH}/{daily['id']}"
    await stage.api.client.delete(canceled, headers={"X-API-Key": stage.party.keys[0]})
    assert await listed(open="true") == []
    assert (await stage.api.get(PATH, stage.party, meter="nothing")).status_code == 404


async def test_a_forecast_has_what_is_planned_apart_and_in_its_sum(stage: Stage) -> None:
    before = await stage.forecast()
    assert (before["planned"], before["limit_hit_on"]) == ("0", None)
    await stage.plan("4", recurrence={"every": "day", "count": 3})
    later = await stage.plan("100", after=28 * DAY)
    found = await stage.forecast()
    # What comes after the period is none of its business.
    assert (found["trend"], found["planned"], found["expected"]) == ("0", "12", "12")
    assert (found["low"], found["high"], found["used"]) == ("12", "12", "0")
    # The third of them reaches the limit of ten.
    third = stage.now + 2 * DAY + HOUR
    assert found["limit_hit_on"] == format_time(third)[:10]
    assert later["occurrences"][0]["reason"] == "over_limit"


async def test_a_forecast_has_all_that_is_planned_however_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_planned, "LINE_MAX", 2)
    for hour in range(2):
        await stage.plan("1", after=(hour + 1) * HOUR, recurrence={"every": "day", "count": 3})
    assert (await stage.forecast())["planned"] == "6"


async def test_a_trend_does_not_go_on_with_what_was_planned(stage: Stage) -> None:
    """All that was used was planned: without a plan nothing more is expected."""
    plan = await stage.plan("2", recurrence={"every": "day", "count": 4})
    for day in range(3):
        await stage.pass_to(day * DAY + HOUR)
        last = (await stage.read(plan))["last"]
        settle = f"/api/v1/reservations/{last['reservation']}/settle"
        assert (await stage.api.post(settle, stage.party, {})).status_code == 200
        await stage.world.log.settle()
    await stage.pass_to(2 * DAY + 2 * HOUR)
    found = await stage.forecast()
    assert (found["used"], found["trend"], found["planned"]) == ("6", "6", "2")
    assert (found["expected"], found["high"]) == ("8", "8")


async def test_a_forecast_outlasts_what_is_tried_again_in_vain(stage: Stage) -> None:
    held = (await stage.reserve("9")).json()
    plan = await stage.plan("2")
    await stage.pass_to(HOUR)
    made = await stage.forecast()
    (waiting,) = (await stage.read(plan))["occurrences"]
    await stage.pass_to(HOUR + planned.TRIED_AGAIN_AFTER)
    (tried,) = (await stage.read(plan))["occurrences"]
    assert waiting["judged_at"] < tried["judged_at"]
    assert (tried["state"], await stage.forecast()) == ("deferred", made)
    # What becomes of it is told at once.
    await stage.api.post(f"/api/v1/reservations/{held['id']}/release", stage.party, {})
    await stage.pass_to(HOUR + 2 * planned.TRIED_AGAIN_AFTER)
    assert await stage.became(plan) == [("admitted", None)]
    assert (await stage.forecast())["made_at"] > made["made_at"]


async def test_a_forecast_that_is_being_made_does_not_outlast_a_plan(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read what was planned before: what it keeps must not stand for what is planned now."""
    await stage.use(1)
    reading, go_on = asyncio.Event(), asyncio.Event()
    straight = store_planned.coming

    async def coming(tx: Any, *asked: Any) -> Any:
        found = await straight(tx, *asked)
        reading.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(store_planned, "coming", coming)
    making = asyncio.create_task(stage.forecast())
    await reading.wait()
    planning = asyncio.create_task(stage.plan("4"))
    await asyncio.wait([planning], timeout=0.3)
    go_on.set()
    assert (await making)["planned"] == "0"
    await planning
    assert (await stage.forecast())["planned"] == "4"


async def test_bad_plans_are_refused_and_the_same_one_is_declared_once(
    stage: Stage, database: TestDatabase
) -> None:
    api, acme = stage.api, stage.party
    await api.meter(acme, key="peak", aggregation="max")
    good = {"meter": "api_calls", "quantity": "1", "at": format_time(stage.now + HOUR)}
    far, past = format_time(stage.now + 1_100 * DAY), format_time(stage.now - HOUR)
    daily = {"every": "day"}
    bad: list[tuple[dict[str, Any], int]] = [
        ({"meter": "nothing"}, 404),
        ({"meter": "peak"}, 422),
        ({"quantity": "0"}, 422),
        ({"quantity": "-1"}, 422),
        ({"quantity": 1}, 422),
        ({"at": past}, 422),
        ({"at": far}, 422),
        ({"at": "2026-01-01T00:00:00"}, 422),
        ({"at": "9999-12-31T23:59:59Z"}, 422),
        ({"recurrence": daily}, 422),
        ({"recurrence": daily | {"count": 367}}, 422),
        ({"recurrence": daily | {"count": 2, "until": far}}, 422),
        ({"recurrence": daily | {"until": far}}, 422),
        ({"recurrence": daily | {"until": past}}, 422),
        ({"recurrence": {"every": "month", "count": 40}}, 422),
        ({"recurrence": {"every": "year", "count": 2}}, 422),
        ({"hold_seconds": 86_401}, 422),
        ({"note": "x\x00"}, 422),
        ({"tenant_id": str(stage.world.globex.id)}, 422),
    ]
    for change, status in bad:
        answer = await api.post(PATH, acme, good | change)
        assert answer.status_code == status, (change, answer.text)
    before = await checksums(database)
    assert before["planned_usage"][0] == 0
    answers = [await api.post(PATH, acme, good, Idempotency_Key="one") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert (await checksums(database))["planned_usage"][0] == 1


async def test_a_plan_that_is_sent_again_when_its_time_is_past_is_answered_as_before(
    stage: Stage,
) -> None:
    body = {"meter": "api_calls", "quantity": "1", "at": format_time(stage.now + HOUR)}
    first = await stage.api.post(PATH, stage.party, body, Idempotency_Key="one")
    await stage.pass_to(2 * HOUR)
    again = await stage.api.post(PATH, stage.party, body, Idempotency_Key="one")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert (await stage.api.post(PATH, stage.party, body)).status_code == 422


async def test_what_comes_after_a_plan_is_not_reckoned_and_nothing_where_others_are_served(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def foresee(slots: Any, *rest: Any) -> Any:
        seen.append((len(slots), threading.current_thread() is threading.main_thread()))
        return straight(slots, *rest)

    straight = planned.foresee
    monkeypatch.setattr(planned, "foresee", foresee)
    await stage.plan("1", after=20 * DAY)
    await stage.plan("1", after=DAY)
    await stage.plan("1", after=20 * DAY)
    assert seen == [(1, False), (1, False), (3, False)]


async def test_there_is_an_end_to_what_is_planned(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned, "OPEN_MAX", 1)
    await stage.plan()
    body = {"meter": "api_calls", "quantity": "1", "at": format_time(stage.now + HOUR)}
    answer = await stage.api.post(PATH, stage.party, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "too_much_planned")


async def test_what_cannot_be_decided_holds_up_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = await stage.plan("1"), await stage.plan("2")
    straight = planned._verdict

    async def verdict(tx: Any, row: Any, *rest: Any) -> Any:
        if row["quantity"] == 1:
            raise ArithmeticError("each time")
        return await straight(tx, row, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(planned, "_verdict", verdict)
        patched.setattr(jobs, "OCCURRENCES_MAX", 1)
        await stage.pass_to(HOUR)
        await stage.decide()
    assert await stage.became(sound) == [("admitted", None)]
    assert await stage.became(broken) == [("planned", None)]
    await stage.pass_to(2 * HOUR)
    assert await stage.became(broken) == [("admitted", None)]


async def test_what_cannot_be_decided_waits_by_its_own_clock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put off by the real time, it were due again at once on a clock that is ahead."""
    await stage.plan("1", after=10 * DAY)
    tried = 0

    async def verdict(*_: Any) -> Any:
        nonlocal tried
        tried += 1
        raise ArithmeticError("each time")

    monkeypatch.setattr(planned, "_verdict", verdict)
    await stage.pass_to(20 * DAY)
    await stage.decide()
    assert tried == 1
    await stage.pass_to(20 * DAY + planned.TRIED_AGAIN_AFTER)
    assert tried == 2


async def test_what_is_of_a_tenant_that_nobody_knows_stands_before_nobody(
    stage: Stage, database: TestDatabase
) -> None:
    plan = await stage.plan("1")
    async with database.admin() as admin:
        await admin.execute(
            "update metering.planned_occurrence set due_at = now() - interval '1 hour'"
        )
        await admin.execute("delete from metering.directory where tenant_id = $1", stage.party.id)
    assert len(await store_planned.list_due(stage.world.database, utc_now(), limit=1)) == 1
    await stage.decide()
    assert await store_planned.list_due(stage.world.database, utc_now(), limit=1) == []
    # When its record comes it is decided like any other.
    await stage.pass_to(2 * HOUR)
    assert await stage.became(plan) == [("admitted", None)]


async def test_a_clock_that_leaps_makes_nobody_wait(stage: Stage) -> None:
    """More is due by it than is looked at in one run."""
    world, globex = stage.world, stage.world.globex
    for _ in range(3):
        await stage.plan("1", recurrence={"every": "day", "count": 366})
    body = {"meter": "api_calls", "quantity": "1", "at": format_time(stage.now + 364 * DAY)}
    answer = await stage.api.post(PATH, globex, body)
    assert answer.status_code == 201, answer.text
    for party in (stage.party, globex):
        await world.move_clock(party, 365 * DAY)
    due = await store_planned.list_due(world.database, utc_now(), limit=10)
    # One of each before the second of any.
    assert {each.tenant_id for each in due[:2]} == {stage.party.id, globex.id}
    assert [each.tenant_id for each in due[2:]] == [stage.party.id] * 8
