"""Levels over time: each holds until the next, exactly, whatever comes late or is taken back."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.metering import LimitThresholdCrossed
from libs.db.tenant import Mode, Scope
from libs.directory.local import Directory
from libs.ids import new_id
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.test_corrections import correct, named
from metering.test_limits import subscribe
from metering.world import Api, World, checksums
from services.metering import (
    forecasts,
    intake,
    jobs,
    meters,
    routes_usage,
    store_levels,
    store_queries,
)
from services.metering.measuring import Meter, divided
from services.metering.store_queries import Question
from services.metering.usage_log import TOPIC
from services.metering.voiding import VOIDED

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


async def storage(api: Api, world: World, **parts: Any) -> None:
    """A meter of gigabyte-hours."""
    await api.meter(
        world.platform,
        **{
            "key": "storage",
            "event_type": "disk.resized",
            "aggregation": "time_weighted_sum",
            "value_path": "gigabytes",
            "time_unit": "hour",
        }
        | parts,
    )


def resized(world: World, at: datetime, gigabytes: Any, **parts: Any) -> dict[str, Any]:
    data = {"gigabytes": gigabytes} | parts.pop("data", {})
    return world.event(type="disk.resized", time=format_time(at), data=data, **parts)


async def test_a_level_holds_until_the_next(api: Api, world: World) -> None:
    await storage(api, world, group_by=["disk"])
    now = floor_to_minute(utc_now())
    start = now - 10 * HOUR
    a, b = {"disk": "a"}, {"disk": "b"}
    await api.send(
        world.acme,
        resized(world, start + 90 * MINUTE, "10", data=a),
        resized(world, start + timedelta(minutes=150, seconds=30), "2.5", data=a, userid="bob"),
        resized(world, start + 3 * HOUR, 100, data=b, subject="shop-7"),
        resized(world, start + 4 * HOUR, 0, data=b, subject="shop-7"),
    )
    span = {"from": format_time(start), "to": format_time(start + 5 * HOUR)}
    # 10 for an hour and half a minute, then 2.5 for an hour and a half a minute less; 100 for an hour.
    first = divided(Decimal(10) * 3630 + Decimal("2.5") * (5 * 3600 - 9030), 3600)
    assert await api.value(world.acme, "storage", **span) == first + 100
    assert await api.value(world.acme, "storage", customer="shop-7", **span) == 100
    assert await api.value(world.globex, "storage", **span) == 0
    rows = await api.rows(world.acme, "storage", group_by="disk", **span)
    assert {row["group"]["disk"]: Decimal(row["value"]) for row in rows} == {"a": first, "b": 100}
    hours = await api.rows(
        world.acme, "storage", customer="self", window="hour", time_zone="UTC", **span
    )
    assert sum(Decimal(row["value"]) for row in hours) == pytest.approx(first)
    whole = {"from": format_time(start + 6 * HOUR), "to": format_time(start + 7 * HOUR)}
    assert await api.value(world.acme, "storage", **whole) == Decimal("2.5"), "no event in it"
    answer = await api.get("/api/v1/meters/storage/query", world.acme, user="bob")
    assert (answer.status_code, answer.json()["code"]) == (400, "no_users")


async def test_a_level_is_not_counted_ahead(api: Api, world: World) -> None:
    await storage(api, world)
    now = utc_now()
    await api.send(world.acme, resized(world, now - DAY, 6))
    told = await api.value(world.acme, "storage")
    assert timedelta(0) <= timedelta(hours=float(told / 6)) - DAY <= 2 * MINUTE
    report = (await api.get("/api/v1/usage/report", world.acme)).json()
    (metric,) = report["metrics"]
    assert metric["by_user"][0]["user"] is None
    ahead = {"from": format_time(now + DAY), "to": format_time(now + 2 * DAY)}
    assert await api.value(world.acme, "storage", **ahead) == 0


async def test_too_many_windows_are_refused(api: Api, world: World) -> None:
    await storage(api, world)
    span = {"from_": format_time(utc_now() - 30 * DAY), "to": format_time(utc_now())}
    for window, status in (("minute", 400), ("hour", 200)):
        answer = await api.get("/api/v1/meters/storage/query", world.acme, window=window, **span)
        assert answer.status_code == status, answer.text
    with pytest.raises(store_levels.TooManyWindowsError):
        async with world.database.transaction(Scope((world.platform.id,), "test")) as tx:
            meter = (await meters.applying(tx, [], "test"))[world.platform.id][0]
            hours = Question(utc_now() - DAY, utc_now(), "hour")
            await store_queries.add_up(tx, meter, hours, limit=5)


async def test_no_more_is_reckoned_than_is_answered(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups times windows would be a million: the loop that everybody's usage needs must not make them."""
    await storage(api, world, group_by=["disk"])
    end = floor_to_minute(utc_now())
    start = end - 4_990 * MINUTE
    told = [
        resized(world, start - HOUR if number % 2 else start + HOUR, 1, data={"disk": f"d{number}"})
        for number in range(200)
    ]
    await api.send(world.acme, *told)
    made: list[Any] = []
    area = store_levels.Area

    def make(*parts: Any) -> store_levels.Area:
        made.append(parts)
        return area(*parts)

    monkeypatch.setattr(store_levels, "Area", make)
    span = {"from": format_time(start), "to": format_time(end), "window": "minute"}
    answer = await api.get(
        "/api/v1/meters/storage/query", world.acme, **span | {"group_by": "disk"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_rows")
    assert len(made) <= routes_usage.ROWS_MAX + 2
    assert len(await api.rows(world.acme, "storage", **span)) == 4_990
    made.clear()
    async with world.database.transaction(Scope((world.platform.id, world.acme.id), "test")) as tx:
        meter = (await meters.applying(tx, [], "test"))[world.platform.id][0]
        await tx.enter(Scope((world.acme.id,), "test"))
        question = Question(start, end, breakdown=(0,))
        assert len(await store_queries.add_up(tx, meter, question, limit=200)) == 200
        made.clear()
        with pytest.raises(store_levels.TooManyWindowsError):
            await store_queries.add_up(tx, meter, question, limit=199)
        assert len(made) == 200
        made.clear()
        with pytest.raises(store_levels.TooManyWindowsError):
            await store_queries.add_up(tx, meter, question, limit=7)
        assert len(made) == 8, "more parts are not even read"


async def test_late_levels_and_voids_change_every_period_that_they_hold_in(
    api: Api, world: World, database: TestDatabase
) -> None:
    await storage(api, world)
    now = floor_to_minute(utc_now())
    begin = now - 6 * DAY
    await api.send(world.acme, resized(world, begin + HOUR, 1))
    periods = [(begin + day * DAY, begin + (day + 1) * DAY) for day in range(5)]
    for start, end in periods:
        await world.close(world.acme, start, end, "storage")
    told = sorted(await world.answers(), key=lambda each: each.period_from)
    assert [(each.quantity, each.event_count) for each in told] == [
        (23, 1),
        *[(Decimal(24), 0)] * 4,
    ]
    late = resized(world, begin + DAY + 12 * HOUR, 3)
    await api.send(world.acme, late, resized(world, begin + 3 * DAY, 1))
    again = sorted((await world.answers())[5:], key=lambda each: each.period_from)
    changed = [(each.period_from, each.quantity, each.revision) for each in again]
    # The fourth day's quantity is what it was, but of an event now.
    assert changed == [
        (begin + DAY, 12 + 36, 2),
        (begin + 2 * DAY, 72, 2),
        (begin + 3 * DAY, 24, 2),
    ]
    await correct(api, world.acme, "void", named(late))
    last = sorted((await world.answers())[8:], key=lambda each: each.period_from)
    assert [(each.quantity, each.revision) for each in last] == [(24, 3), (24, 3)]
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_a_level_reaches_its_limit_without_an_event(api: Api, world: World) -> None:
    await storage(api, world, key="api_calls")
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "soft", "40", (now - DAY, now + 10 * DAY))
    await api.send(world.acme, resized(world, now - HOUR, 1))
    directory = Directory(world.database)
    await jobs.look_at_limits(world.database, directory)
    assert world.log.events(LimitThresholdCrossed) == []
    await world.move_clock(world.acme, DAY)
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute("update usage_forecast set due_at = $1", now)
    await forecasts.refresh(world.database, Directory(world.database), limit=5)
    await jobs.look_at_limits(world.database, Directory(world.database))
    await world.log.settle()
    (crossed,) = world.log.events(LimitThresholdCrossed)
    assert (crossed.data.percent, crossed.data.used >= 25) == (50, True)


def integral(told: list[tuple[int, str, int, int]], start: int, end: int) -> Fraction:
    """What levels come to between two seconds, reckoned from their meaning alone.

    Args:
        told: second, group, level and the number of each event; the last of a second holds.
    """
    whole = Fraction(0)
    for group in {group for _, group, _, _ in told}:
        line = sorted((at, number, level) for at, name, level, number in told if name == group)
        for (at, _, level), (following, *_) in pairwise([*line, (end, 0, 0)]):
            whole += level * max(min(following, end) - max(at, start), 0)
    return whole


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    told=st.lists(
        st.tuples(st.integers(0, 900), st.sampled_from("ab"), st.integers(0, 9)),
        min_size=1,
        max_size=14,
        unique_by=lambda each: each[:2],
    ),
    order=st.randoms(use_true_random=False),
    voided=st.sets(st.integers(0, 13), max_size=4),
    cuts=st.sets(st.integers(1, 40), max_size=4),
    span=st.tuples(st.integers(0, 8), st.integers(9, 17)),
)
async def test_any_order_gives_the_integral(
    levels: tuple[World, Meter],
    told: list[tuple[int, str, int]],
    order: Any,
    voided: set[int],
    cuts: set[int],
    span: tuple[int, int],
) -> None:
    world, meter = levels
    base = floor_to_minute(utc_now()) - 2 * HOUR
    events = [
        resized(
            world,
            base + timedelta(seconds=at),
            level,
            id=f"l-{number}",
            userid=f"u{number % 3}",
            data={"disk": group},
        )
        for number, (at, group, level) in enumerate(told)
    ]
    sent = [*events, *events[::3]]
    sent += [
        world.event(type=VOIDED, data=named(event))
        for number, event in enumerate(events)
        if number in voided
    ]
    order.shuffle(sent)
    left = [(*each, number) for number, each in enumerate(told) if number not in voided]
    tenant = new_id()
    edges = [0, *sorted(cuts), len(sent)]
    for first, last in pairwise(sorted(edges)):
        await _count(world, tenant, sent[first:last])
    start, end = (base + minute * MINUTE for minute in span)
    async with world.database.tenant(tenant, "test") as tx:
        whole = await store_queries.add_up(tx, meter, Question(start, end), limit=1)
        minutes = await store_queries.add_up(
            tx, meter, Question(start, end, "minute", breakdown=(0,)), limit=100
        )
    assert _value(whole) == integral(left, span[0] * 60, span[1] * 60)
    assert _value(minutes) == integral(left, span[0] * 60, span[1] * 60)
    for group in "ab":
        mine = [each for each in left if each[1] == group]
        at = {each.window[0]: each for each in minutes if each.parts == (group,) and each.window}
        for minute in range(*span):
            found = at.get(base + minute * MINUTE)
            expected = integral(mine, minute * 60, (minute + 1) * 60)
            assert _value([found] if found else []) == expected
            there = [each for each in mine if each[0] // 60 == minute]
            assert (found.event_count if found else 0) == len(there)


def _value(totals: list[store_queries.Total]) -> Fraction:
    return sum((Fraction(each.value) for each in totals), Fraction(0))


@pytest.fixture
async def levels(api: Api, world: World) -> tuple[World, Meter]:
    """A meter by the second, so that nothing is rounded."""
    await storage(api, world, time_unit="second", group_by=["disk"])
    async with world.database.transaction(Scope((world.platform.id,), "test")) as tx:
        known = await meters.applying(tx, [], "test")
    return world, known[world.platform.id][0]


async def _count(world: World, tenant: UUID, events: list[dict[str, Any]]) -> None:
    mode: Mode = "test"
    records = [
        Record(
            TOPIC,
            0,
            offset,
            utc_now(),
            str(tenant).encode(),
            json.dumps(event | {"mode": mode}).encode(),
        )
        for offset, event in enumerate(events)
    ]
    async with world.database.transaction() as tx:
        await intake.take(records, tx)
