"""An id that comes with another content is counted once, and reported."""

import pytest

from libs.testing.databases import TestDatabase
from metering.world import Api, World, checksums
from services.metering import conflicts

PATH = "/api/v1/usage/conflicts"


async def test_the_first_content_counts_and_the_others_are_reported(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    event = world.event(subject="shop-7", data={"calls": 1})
    other = event | {"data": {"calls": 5}}
    await api.send(world.acme, event)
    assert (await api.get(PATH, world.acme)).json() == {
        "items": [],
        "next_cursor": None,
        "counted": 0,
    }
    # In one batch with a resend of what was counted: only the other content is a conflict.
    world.put(world.acme, other)
    world.put(world.acme, event)
    third = world.event(data={"calls": 7})
    world.put(world.acme, third)
    world.put(world.acme, third | {"data": {"calls": 8}})
    await world.log.settle()
    assert await api.value(world.acme) == 8
    answer = (await api.get(PATH, world.acme)).json()
    assert answer["counted"] == 2
    newest, oldest = answer["items"]
    assert newest["received_at"] >= oldest.pop("received_at")
    assert (newest["id"], newest["customer"]) == (third["id"], None)
    assert oldest == {
        "id": event["id"],
        "source": "product/api",
        "type": "api.call",
        "customer": "shop-7",
    }
    assert (await api.get(PATH, world.globex)).json()["counted"] == 0

    before = await checksums(database)
    assert before["usage_conflict"][0] == 2
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before


async def test_the_first_of_a_day_are_kept_and_all_are_counted(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "KEPT_PER_DAY", 3)
    event = world.event()
    for number in range(8):
        world.put(world.acme, event | {"data": {"calls": number}})
        if number == 4:
            await world.log.settle()
    await world.log.settle()
    first = (await api.get(PATH, world.acme, limit=2)).json()
    rest = (await api.get(PATH, world.acme, limit=2, cursor=first["next_cursor"])).json()
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)
    assert first["counted"] == 7


async def test_conflicts_end_with_their_ids(api: Api, world: World, database: TestDatabase) -> None:
    event = world.event()
    world.put(world.acme, event)
    world.put(world.acme, event | {"data": {"calls": 9}})
    await world.log.settle()
    day = (await api.get(PATH, world.acme)).json()["items"][0]["received_at"][:10]
    async with database.admin() as admin:
        today = await admin.fetchval("select max(received_day) from metering.usage_conflict_day")
        assert str(today) == day
        await conflicts.prune(world.database, today, limit=10)
        assert await admin.fetchval("select count(*) from metering.usage_conflict") == 1
        tomorrow = await admin.fetchval("select $1::date + 1", today)
        await conflicts.prune(world.database, tomorrow, limit=10)
        assert await admin.fetchval("select count(*) from metering.usage_conflict") == 0
        assert await admin.fetchval("select count(*) from metering.usage_conflict_day") == 0
