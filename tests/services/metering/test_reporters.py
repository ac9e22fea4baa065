"""Who is billed for usage cannot take back, or pre-empt, what the platform reported of it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.testing.databases import TestDatabase
from metering.test_backfills import PATH, add, begin, run
from metering.test_corrections import correct, named
from metering.test_reservations import end, reserve
from metering.world import Api, World, checksums
from services.metering.usage_log import TOPIC
from services.metering.voiding import VOIDED

DAY = timedelta(days=1)


def reported(world: World, **attributes: Any) -> dict[str, Any]:
    """An event of acme's that the platform tells."""
    return world.event(tenantid=str(world.acme.id), **attributes)


async def for_acme(api: Api, kind: str, *events: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The platform corrects usage of acme's."""
    body = {"reason": "counted by mistake", "events": list(events)}
    answer = await api.post(
        f"/api/v1/events/{kind}", api.world.platform, body, x_tenant_id=str(api.world.acme.id)
    )
    assert answer.status_code == 202, answer.text
    await api.world.log.settle()
    return [(each["status"], each["code"]) for each in answer.json()["results"]]


def verdicts(told: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(each["status"], each["code"]) for each in told["results"]]


def alarms(world: World) -> list[SecurityEventRaised]:
    """The security events of corrections that were refused."""
    events = [event.data for event in world.log.events(SecurityEventRaised)]
    return [each for each in events if each.kind == "usage_correction_refused"]


async def mark_since(database: TestDatabase, days_ahead: int) -> None:
    """The platform marks what it reports from the beginning of another day on."""
    async with database.admin() as admin:
        await admin.execute(
            "update metering.platform_marks "
            "set since = date_trunc('day', now(), 'UTC') + make_interval(days => $1)",
            days_ahead,
        )


async def test_who_is_billed_cannot_take_back_what_the_platform_reported(
    api: Api, world: World
) -> None:
    # Given usage of acme's that the platform reported, billed once already,
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    event = reported(world, data={"calls": 100})
    await api.send(world.platform, event)
    assert json.loads(world.log.topics[TOPIC][0].value or b"")["reportedbytheplatform"] is True
    await world.close(world.acme, now - DAY, now + timedelta(minutes=1), "api_calls")
    await world.move_clock(world.acme, timedelta(minutes=5))
    assert [(each.quantity, each.revision) for each in await world.answers()] == [(100, 1)]
    # when acme voids or amends it with a key of its own,
    refused = [("rejected", "reported_by_platform")]
    assert verdicts(await correct(api, world.acme, "void", named(event))) == refused
    other = named(event) | {"event": world.event(data={"calls": 1})}
    assert verdicts(await correct(api, world.acme, "amend", other)) == refused
    # then nothing changes, it stands among the security events, and no correction was recorded.
    assert await api.value(world.acme) == 100
    assert [(each.quantity, each.revision) for each in await world.answers()] == [(100, 1)]
    assert [each.path for each in alarms(world)] == ["/api/v1/events/void", "/api/v1/events/amend"]
    assert (await api.get("/api/v1/usage/corrections", world.acme)).json()["items"] == []
    # The platform itself can.
    assert await for_acme(api, "void", named(event)) == [("accepted", None)]
    assert await api.value(world.acme) == 0
    assert await for_acme(api, "void", named(event)) == [("duplicate", None)]


async def test_who_is_billed_cannot_take_the_id_of_what_the_platform_reports(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    event = reported(world, data={"calls": 5_000})
    await api.send(world.acme, event | {"data": {"calls": 1}})
    await api.send(world.platform, event, event | {"data": {"calls": 9}})
    await api.send(world.platform, event)
    assert await api.value(world.acme) == 5_001, "each counts, and each once"
    assert verdicts(await correct(api, world.acme, "void", named(event))) == [("accepted", None)]
    assert await api.value(world.acme) == 5_000, "acme means its own"
    assert await for_acme(api, "void", named(event)) == [("accepted", None)]
    assert await api.value(world.acme) == 0
    # The mark is nobody's to set but ours.
    marked = world.event(reportedbytheplatform=True)
    await api.send(world.acme, marked)
    assert b"reportedbytheplatform" not in (world.log.topics[TOPIC][-1].value or b"")
    assert verdicts(await correct(api, world.acme, "void", named(marked))) == [("accepted", None)]


async def test_a_void_that_comes_first_holds_for_who_sent_it(
    api: Api, world: World, database: TestDatabase
) -> None:
    # Given a tenant's void, and one of the platform's, of events that have not come,
    await api.meter(world.platform)
    mine, theirs = (reported(world, data={"calls": calls}) for calls in (3, 70))
    early = [("accepted", "not_counted_yet")]
    assert verdicts(await correct(api, world.acme, "void", named(mine))) == early
    assert await for_acme(api, "void", named(theirs)) == early
    # when both come from both sides,
    for party in (world.platform, world.acme):
        await api.send(party, mine, theirs)
    # then the tenant's own does not count, and of what the platform voided neither.
    assert await api.value(world.acme) == 3
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_the_platform_corrects_what_a_tenant_reported(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event, other = world.event(data={"calls": 7}), world.event(data={"calls": 2})
    await api.send(world.acme, event, other)
    assert await for_acme(api, "void", named(event)) == [("accepted", None)]
    right = named(other) | {"event": world.event(data={"calls": 5})}
    assert await for_acme(api, "amend", right) == [("accepted", None)]
    assert await api.value(world.acme) == 5
    assert verdicts(await correct(api, world.acme, "void", named(right["event"]))) == [
        ("rejected", "reported_by_platform")
    ]
    void = json.loads(world.log.topics[TOPIC][2].value or b"")
    assert (void["reportedbytheplatform"], void["data"]["reporter"]) == (True, "tenant")
    assert void["data"]["actor"].startswith("key_")


async def test_a_void_straight_on_the_topic_is_told_once(
    api: Api, world: World, database: TestDatabase
) -> None:
    """The consumer decides the same for whoever reaches the topic."""
    await api.meter(world.platform)
    event = reported(world, data={"calls": 100})
    await api.send(world.platform, event)
    data = named(event) | {"actor": "key_x"}
    for _ in range(2):
        world.put(world.acme, world.event(type=VOIDED, data=data))
        await world.log.settle()
    assert await api.value(world.acme) == 100
    (alarm,) = alarms(world)
    assert (alarm.actor, alarm.method, alarm.permission) == (
        "key_x",
        "PUBLISH",
        "reported_by_platform",
    )
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_what_came_in_before_the_mark_keeps_its_id(
    api: Api, world: World, database: TestDatabase
) -> None:
    # Given an event of the platform's, and the tenant's own, of before marks began,
    await api.meter(world.platform)
    await mark_since(database, 1)
    event, own = reported(world, data={"calls": 100}), world.event(data={"calls": 1})
    await api.send(world.platform, event)
    await api.send(world.acme, own)
    assert b"reportedbytheplatform" not in (world.log.topics[TOPIC][0].value or b"")
    both = reported(world, data={"calls": 30})
    await api.post("/api/v1/events", world.platform, both)
    await mark_since(database, 0)
    # when it is sent again with the mark, one of them before the first was counted,
    await api.send(world.platform, event, both)
    assert await api.value(world.acme) == 131
    assert await for_acme(api, "void", named(both)) == [("accepted", None)]
    # then it counts once, also when everything is read again,
    assert await api.value(world.acme) == 101
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before
    # and the platform's correction takes it back.
    assert await for_acme(api, "void", named(event)) == [("accepted", None)]
    assert await api.value(world.acme) == 1


async def test_backfills_of_both_stand_apart(api: Api, world: World, tmp_path: Path) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    event = world.event(time=format_time(now - 60 * DAY), data={"calls": 40})
    mine = await begin(api, world.acme)
    await add(api, world.acme, mine, event | {"data": {"calls": 1}})
    assert (await run(api, world, world.acme, mine, tmp_path))["published"] == 1
    headers = {"x_tenant_id": str(world.acme.id)}
    begun = await api.post(PATH, world.platform, {"reason": "missed"}, **headers)
    path = f"{PATH}/{begun.json()['id']}"
    await api.post(f"{path}/events", world.platform, [event], **headers)
    told = await run(api, world, world.acme, begun.json()["id"], tmp_path)
    assert (told["published"], told["known"]) == (1, 0)
    span = {"from": format_time(now - 61 * DAY), "to": format_time(now)}
    assert await api.value(world.acme, **span) == 41
    assert verdicts(await correct(api, world.acme, "void", named(event))) == [("accepted", None)]
    assert await api.value(world.acme, **span) == 40
    assert await for_acme(api, "void", named(event)) == [("accepted", None)]
    assert await api.value(world.acme, **span) == 0


async def test_only_the_platform_ends_what_it_holds(api: Api, world: World) -> None:
    await api.meter(world.platform)
    headers = {"x_tenant_id": str(world.acme.id)}
    body = {"meter": "api_calls", "amount": "8"}
    held = (await api.post("/api/v1/reservations", world.platform, body, **headers)).json()["id"]
    for how in ("settle", "release"):
        refused = await end(api, world.acme, held, how)
        assert (refused.status_code, refused.json()["code"]) == (403, "reported_by_platform")
    await world.log.settle()
    assert len(alarms(world)) == 2
    path = f"/api/v1/reservations/{held}/settle"
    assert (await api.post(path, world.platform, {"amount": "5"}, **headers)).status_code == 200
    await world.log.settle()
    assert await api.value(world.acme) == 5
    event = json.loads(world.log.topics[TOPIC][0].value or b"")
    assert verdicts(await correct(api, world.acme, "void", named(event))) == [
        ("rejected", "reported_by_platform")
    ]
    # What the tenant holds itself is its own to end.
    own = (await reserve(api, world.acme, "3")).json()["id"]
    assert (await end(api, world.acme, own, "release")).status_code == 200
    assert (await end(api, world.globex, held, "release")).status_code == 404
