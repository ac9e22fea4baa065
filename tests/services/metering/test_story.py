"""The straight path: a meter, usage, its value, the closed period and what comes late."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.metering import MeterCreated
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.world import Api, World, checksums
from services.metering import closing, intake
from services.metering.store_closures import list_due

DAY = timedelta(days=1)


async def test_usage_is_counted_once_and_the_period_is_answered(api: Api, world: World) -> None:
    meter = await api.meter(world.platform)
    await world.log.settle()
    (created,) = world.log.events(MeterCreated)
    assert created.tenant_id == PLATFORM_TENANT_ID
    assert meter["id"] == f"mtr_{created.data.meter_id}"

    now = floor_to_minute(utc_now())
    start, end = now - 10 * DAY, now - DAY
    inside = [
        world.event(time=format_time(start), data={"calls": 3}),
        world.event(time=format_time(end - timedelta(microseconds=1)), data={"calls": 4}),
    ]
    outside = [
        world.event(time=format_time(start - timedelta(microseconds=1)), data={"calls": 100}),
        world.event(time=format_time(end), data={"calls": 1000}),
    ]
    verdicts = await api.send(world.acme, *inside, *outside, inside[0])
    assert [each["status"] for each in verdicts] == ["accepted"] * 4 + ["duplicate"]
    await api.send(world.acme, *inside)
    span = {"from": format_time(start), "to": format_time(end)}
    assert await api.value(world.acme, **span) == 7
    assert await api.value(world.acme) == 1107
    assert await api.value(world.globex) == 0

    fact = await world.close(world.acme, start, end, "api_calls")
    (answer,) = await world.answers()
    assert (answer.closure_id, answer.meter, answer.revision) == (fact.closure_id, "api_calls", 1)
    assert (answer.quantity, answer.event_count) == (Decimal(7), 2)
    assert len(await world.answers()) == 1

    late = world.event(time=format_time(start + DAY), data={"calls": 5})
    await api.send(world.acme, late, world.event(time=format_time(end), data={"calls": 1}))
    _, second = await world.answers()
    assert (second.revision, second.quantity, second.event_count) == (2, Decimal(12), 3)
    await api.send(world.acme, late)
    assert len(await world.answers()) == 2


async def test_an_answer_waits_for_its_time_and_for_what_came_in_before(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await api.post("/api/v1/events", world.acme, world.event(data={"calls": 2}))
    await world.close(
        world.acme, now - DAY, now + DAY, "api_calls", grace_seconds=int(DAY.total_seconds())
    )
    assert await world.answers() == []
    await world.move_clock(world.acme, 2 * DAY - timedelta(hours=1))
    assert await world.answers() == []
    await world.move_clock(world.acme, 2 * DAY + timedelta(hours=1), version=3)
    # Come in but not consumed when the period is over: the barrier holds the answer back.
    await api.post("/api/v1/events", world.acme, [world.event(data={"calls": 3}), world.event()])
    consumer = world.log.consumers(world.database)[0]
    deliver, world.log._deliver = world.log._deliver, _deliver_nothing  # type: ignore[method-assign]
    assert await world.answers() == []
    world.log._deliver = deliver  # type: ignore[method-assign]
    assert consumer.name == "metering"
    await world.log.settle()
    (answer,) = await world.answers()
    assert (answer.quantity, answer.revision) == (Decimal(6), 1)


async def _deliver_nothing(*_: object) -> int:
    return 0


@pytest.mark.parametrize("answer_first", [True, False])
async def test_usage_and_answer_at_the_same_moment_miss_nothing(
    api: Api, world: World, answer_first: bool
) -> None:
    """Whichever of the two transactions is first, the late event is in some answer."""
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await api.send(world.acme, world.event(time=format_time(now - timedelta(hours=2))))
    await world.close(world.acme, now - DAY, now, "api_calls")
    (due,) = await list_due(world.database, utc_now(), limit=10)
    late = Record(
        "usage.events",
        0,
        99,
        utc_now(),
        str(world.acme.id).encode(),
        json.dumps(world.event(time=format_time(now - DAY)) | {"mode": "test"}).encode(),
    )

    async def give_answer(held: asyncio.Event, release: asyncio.Event) -> None:
        async with world.database.tenant(world.acme.id, "test") as tx:
            await closing.answer(tx, due, utc_now())
            held.set()
            await release.wait()

    async def count_late(held: asyncio.Event, release: asyncio.Event) -> None:
        async with world.database.transaction() as tx:
            await intake.take([late], tx)
            held.set()
            await release.wait()

    first, second = (give_answer, count_late) if answer_first else (count_late, give_answer)
    held, release, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    go_on.set()
    async with asyncio.TaskGroup() as both:
        both.create_task(first(held, release))
        await held.wait()
        waiting = both.create_task(second(asyncio.Event(), go_on))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "the second waits for the first"
        release.set()
    answers = await world.answers()
    expected = [(1, 1), (2, 2)] if answer_first else [(1, 2)]
    assert [(each.revision, each.event_count) for each in answers] == expected


async def test_zero_use_is_an_answer_too(api: Api, world: World) -> None:
    await api.meter(world.platform)
    await api.meter(world.platform, key="peak", aggregation="max")
    await api.meter(world.platform, key="people", aggregation="unique_count", value_path="who")
    now = floor_to_minute(utc_now())
    await world.close(world.acme, now - DAY, now, "api_calls", "peak", "people")
    answers = await world.answers()
    assert {answer.meter: answer.quantity for answer in answers} == dict.fromkeys(
        ("api_calls", "peak", "people"), Decimal(0)
    )


async def test_replay_changes_nothing(api: Api, world: World, database: TestDatabase) -> None:
    await api.meter(world.platform, group_by=["region"])
    await api.meter(world.acme, key="people", aggregation="unique_count", value_path="calls")
    now = floor_to_minute(utc_now())
    events = [
        world.event(
            time=format_time(now - timedelta(minutes=7 * number)),
            data={"calls": number, "region": "eu" if number % 2 else "us"},
            subject=None if number % 3 else "shop-7",
        )
        for number in range(40)
    ]
    await api.send(world.acme, *events)
    await api.send(world.globex, *events[:5])
    world.log.append("usage.events", b"nobody", b"{")
    await world.close(world.acme, now - DAY, now, "api_calls")
    await world.answers()
    before = await checksums(database)
    assert before["dead_letter"][0] == 1
    assert before["usage_event_id"][0] == 45
    assert before["usage_series"][0] == 2 * 2 + 2 + 2 + 2
    await world.log.replay(clear_inboxes=False)
    await world.answers()
    assert await checksums(database) == before
    await world.log.replay(clear_inboxes=True)
    await world.answers()
    assert await checksums(database) == before
