"""Backfills: usage of before the window counts once, in its own time, and never twice."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from metering.reading import MemoryUsageReader
from metering.test_corrections import correct, named
from metering.test_intake import letters
from metering.world import Api, Party, World, checksums
from services.metering import archiving, backfills, jobs, store_backfills
from services.metering.event_ids import former_hash_of_id, hash_of_id
from services.metering.voiding import SOURCE, VOIDED
from services.metering.window import BACKFILL_AGE_MAX

DAY = timedelta(days=1)
PATH = "/api/v1/usage/backfills"


async def begin(api: Api, party: Party) -> str:
    answer = await api.post(PATH, party, {"reason": "the importer was down"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def add(api: Api, party: Party, backfill: str, *events: Any) -> list[tuple[Any, Any]]:
    answer = await api.post(f"{PATH}/{backfill}/events", party, list(events))
    assert answer.status_code == 202, answer.text
    return [(each["status"], each.get("code")) for each in answer.json()["results"]]


async def run(api: Api, world: World, party: Party, backfill: str, folder: Path) -> dict[str, Any]:
    """Start a backfill and work on it to its end."""
    answer = await api.post(f"{PATH}/{backfill}/start", party, {})
    assert answer.status_code == 202, answer.text
    for _ in range(5):
        await backfills.work(world.database, world.usage_log, folder, limit=9)  # type: ignore[arg-type]
        await world.log.settle()
    told: dict[str, Any] = (await api.get(f"{PATH}/{backfill}", party)).json()
    return told


async def test_old_usage_counts_in_its_own_time(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    await api.meter(world.platform, key="least", aggregation="min")
    now = floor_to_minute(utc_now())
    old = [
        world.event(time=format_time(now - 100 * DAY), data={"calls": calls}) for calls in (5, 7)
    ]
    await world.close(world.acme, now - 101 * DAY, now - 99 * DAY, "api_calls", "least")
    assert {each.quantity for each in await world.answers()} == {0}
    assert (await api.send(world.acme, old[0]))[0]["code"] == "time_too_old"
    backfill = await begin(api, world.acme)
    assert await add(api, world.acme, backfill, *old) == [("accepted", None)] * 2
    assert await add(api, world.acme, backfill, old[0], old[1] | {"data": {"calls": 9}}) == [
        ("duplicate", None),
        ("rejected", "id_conflict"),
    ]
    assert world.usage_log.published == [], "nothing counts before it is started"
    told = await run(api, world, world.acme, backfill, tmp_path)
    assert (told["state"], told["events"], told["known"], told["published"]) == ("done", 2, 0, 2)
    again = {each.meter: (each.quantity, each.revision) for each in (await world.answers())[2:]}
    assert again == {"api_calls": (12, 2), "least": (5, 2)}
    span = {"from": format_time(now - 101 * DAY), "to": format_time(now - 99 * DAY)}
    assert await api.value(world.acme, **span) == 12
    assert await api.value(world.globex, **span) == 0
    await correct(api, world.acme, "void", named(old[0]))
    assert await api.value(world.acme, **span) == 7, "it can be voided as any other"
    audited = [each.data for each in world.log.events(ConfigurationChanged)]
    (fact,) = [each for each in audited if each.action == "usage.backfilled"]
    assert fact.after == {"events": 2, "reason": "the importer was down"}
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_what_was_counted_before_does_not_count_again(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    """Its id is forgotten, but the archive has it; and ids of backfills are never forgotten."""
    await api.meter(world.platform)
    async with database.admin() as admin:
        await admin.execute(
            "update metering.meter set created_at = created_at - interval '90 days'"
        )
    now = floor_to_minute(utc_now())
    ago = now - 60 * DAY
    event, fresh = (world.event(time=format_time(ago)) for _ in range(2))
    refused = world.event(time=format_time(ago - 40 * DAY))
    for each in (event, refused):
        world.put(world.acme, each, at=ago + timedelta(hours=1))
    await world.log.settle()
    assert await letters(database) == ["time_too_old"]
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, tmp_path, timedelta())  # type: ignore[arg-type]
    await jobs.prune_event_ids(world.database)
    for number in range(2):
        backfill = await begin(api, world.acme)
        await add(api, world.acme, backfill, event, fresh, refused)
        told = await run(api, world, world.acme, backfill, tmp_path)
        assert (told["known"], told["published"]) == (1, 2), number
        span = {"from": format_time(now - 150 * DAY), "to": format_time(now)}
        assert await api.value(world.acme, **span) == 3
        await jobs.prune_event_ids(world.database)


async def archived(
    world: World, database: TestDatabase, folder: Path, ago: datetime, *events: dict[str, Any]
) -> None:
    """Events that came in long ago, whose ids are forgotten since."""
    async with database.admin() as admin:
        await admin.execute(
            "update metering.meter set created_at = created_at - interval '90 days'"
        )
    for each in events:
        world.put(world.acme, each, at=ago + timedelta(hours=1))
    await world.log.settle()
    reader = MemoryUsageReader(world.log)
    await archiving.archive_usage(world.database, reader, folder, timedelta())  # type: ignore[arg-type]
    await jobs.prune_event_ids(world.database)


async def test_what_a_meter_refused_then_was_never_counted(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform, group_by=["region"])
    ago = floor_to_minute(utc_now()) - 60 * DAY
    good, *bad = (
        world.event(time=format_time(ago), data=data)
        for data in (
            {"calls": 1, "region": "eu"},
            {"region": "eu"},
            {"calls": -1, "region": "eu"},
            {"calls": 1, "region": ["eu"]},
        )
    )
    await archived(world, database, tmp_path, ago, good, *bad)
    assert await letters(database) == ["missing_value", "negative_value", "invalid_group"]
    backfill = await begin(api, world.acme)
    mended = [each | {"data": {"calls": 10, "region": "eu"}} for each in bad]
    await add(api, world.acme, backfill, good, *mended)
    told = await run(api, world, world.acme, backfill, tmp_path)
    assert (told["known"], told["published"], told["archive_complete"]) == (1, 3, True)
    span = {"from": format_time(ago - DAY), "to": format_time(ago + DAY)}
    assert await api.value(world.acme, **span) == 31


async def test_what_was_voided_before_it_came_stays_voided(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    """The void is forgotten with the ids, but the archive has it, under any hash that names it."""
    await api.meter(world.platform)
    ago = floor_to_minute(utc_now()) - 60 * DAY
    event, former, other = (
        world.event(time=format_time(ago), id=str(new_id()) if number else "plain")
        for number in range(3)
    )
    voids = [
        world.event(
            type=VOIDED,
            time=format_time(ago),
            source=SOURCE,
            id=hash_of(each["source"], each["id"]).hex(),
            data=named(each),
        )
        for each, hash_of in ((event, hash_of_id), (former, former_hash_of_id))
    ]
    await archived(world, database, tmp_path, ago, *voids)
    backfill = await begin(api, world.acme)
    await add(api, world.acme, backfill, event, former, other)
    told = await run(api, world, world.acme, backfill, tmp_path)
    assert (told["known"], told["published"]) == (2, 1)
    span = {"from": format_time(ago - DAY), "to": format_time(ago + DAY)}
    assert await api.value(world.acme, **span) == 1


async def test_a_backfill_says_what_it_was_not_compared_with(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    ago = floor_to_minute(utc_now()) - 60 * DAY
    await archived(world, database, tmp_path, ago, world.event(time=format_time(ago)))
    for change, whole in (
        ("lost_records = 0", True),
        ("lost_records = 1", False),
        ("lost_records = 0, first_offset = 3", False),
        ("first_offset = null", False),
    ):
        async with database.admin() as admin:
            await admin.execute(f"update metering.archive_place set {change} where partition = 0")
        backfill = await begin(api, world.acme)
        assert (await api.get(f"{PATH}/{backfill}", world.acme)).json()["archive_complete"] is None
        told = await run(api, world, world.acme, backfill, tmp_path)
        assert (told["state"], told["archive_complete"]) == ("done", whole), change


async def test_a_backfill_that_is_stuck_stops_nobody_elses(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    ago = floor_to_minute(utc_now()) - 60 * DAY
    event = world.event(time=format_time(ago))
    await archived(world, database, tmp_path, ago, event)
    shutil.rmtree(tmp_path)
    begun = []
    for party in (world.acme, world.acme, world.globex):
        backfill = await begin(api, party)
        await add(api, party, backfill, event)
        await api.post(f"{PATH}/{backfill}/start", party, {})
        begun.append(backfill)
    for _ in range(8):
        await backfills.work(world.database, world.usage_log, tmp_path, limit=1)  # type: ignore[arg-type]
        await world.log.settle()
    states = [
        (await api.get(f"{PATH}/{each}", party)).json()["state"]
        for each, party in zip(begun, (world.acme, world.acme, world.globex), strict=True)
    ]
    assert states == ["comparing", "comparing", "done"]


async def test_a_page_is_no_larger_than_kafka_takes_in_time(
    api: Api, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    monkeypatch.setattr(backfills, "PAGE_BYTES", 4_000)
    ago = format_time(utc_now() - 60 * DAY)
    sizes = (1_000, 1_000, 1_000, 9_000, 2_000, 5_000)
    events = [world.event(time=ago, data={"calls": 1, "text": "x" * size}) for size in sizes]
    backfill = await begin(api, world.acme)
    await add(api, world.acme, backfill, *events)
    told = await run(api, world, world.acme, backfill, tmp_path)
    assert (told["state"], told["published"]) == ("done", len(events))
    pages = [values for _, _, values in world.usage_log.published]
    assert sum(map(len, pages)) == len(events)
    assert all(len(page) == 1 or sum(map(len, page)) < 4_500 for page in pages)


async def test_a_tenant_has_only_so_many_backfills_at_a_time(
    api: Api, world: World, tmp_path: Path
) -> None:
    begun = [await begin(api, world.acme) for _ in range(backfills.OPEN_MAX)]
    full = await api.post(PATH, world.acme, {"reason": "one more"})
    assert (full.status_code, full.json()["code"]) == (409, "too_many_backfills")
    await begin(api, world.globex)
    assert (await run(api, world, world.acme, begun[0], tmp_path))["state"] == "done"
    await begin(api, world.acme)


async def test_a_crash_between_publishing_and_noting_it(
    api: Api, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    monkeypatch.setattr(backfills, "PAGE_EVENTS", 2)
    now = floor_to_minute(utc_now())
    backfill = await begin(api, world.acme)
    events = [world.event(time=format_time(now - 90 * DAY)) for _ in range(5)]
    await add(api, world.acme, backfill, *events)
    note = store_backfills.let_go
    calls = 0

    async def crash(*args: Any, **parts: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("the process ends here")
        await note(*args, **parts)

    monkeypatch.setattr(store_backfills, "let_go", crash)
    world.usage_log.down = True
    await run(api, world, world.acme, backfill, tmp_path)
    world.usage_log.down = False
    told = await run(api, world, world.acme, backfill, tmp_path)
    assert (told["state"], told["published"]) == ("done", 5)
    assert sum(len(values) for _, _, values in world.usage_log.published) == 7, "two went twice"
    span = {"from": format_time(now - 91 * DAY), "to": format_time(now)}
    assert await api.value(world.acme, **span) == 5


async def test_what_cannot_be_backfilled(
    api: Api, world: World, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    await api.meter(world.platform, key="disk", event_type="disk", aggregation="time_weighted_sum")
    now = utc_now()
    backfill = await begin(api, world.acme)
    old = format_time(now - 50 * DAY)
    assert await add(
        api,
        world.acme,
        backfill,
        world.event(),
        world.event(time=None),
        world.event(time=format_time(now - BACKFILL_AGE_MAX - DAY)),
        world.event(time=old, type="disk"),
        world.event(time=old, data={"calls": -1}),
        world.event(time=old, source="sluice:reservation"),
        world.event(time=old, tenantid=str(world.globex.id)),
        7,
    ) == [
        ("rejected", code)
        for code in (
            *("not_old_enough", "not_old_enough", "time_too_old", "not_backfillable"),
            *("negative_value", "reserved_source", "wrong_tenant", "not_an_object"),
        )
    ]
    for path in (f"{PATH}/{backfill}", f"{PATH}/bkf_{new_id()}", f"{PATH}/x"):
        assert (await api.get(path, world.globex)).status_code == 404
        for action in ("start", "events"):
            answer = await api.post(f"{path}/{action}", world.globex, [world.event(time=old)])
            assert answer.status_code == 404
    assert (await api.post(PATH, world.acme, {"reason": ""})).status_code == 422
    monkeypatch.setattr(backfills, "EVENTS_MAX", 1)
    events = [world.event(time=old) for _ in range(2)]
    full = await api.post(f"{PATH}/{backfill}/events", world.acme, events)
    assert (full.status_code, full.json()["code"]) == (409, "backfill_full")
    # The mark of a backfill is nobody's to set but ours.
    assert (await api.send(world.acme, world.event(time=old, backfill=str(new_id()))))[0][
        "code"
    ] == "time_too_old"
    world.put(world.acme, world.event(time=old, type="disk", backfill=str(new_id())))
    world.put(world.acme, world.event(time=old, backfill="x"))
    await world.log.settle()
    assert await letters(database) == ["not_backfillable", "not_an_event"]


async def test_what_nobody_starts_is_dropped(
    api: Api, world: World, database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    backfill = await begin(api, world.acme)
    await add(api, world.acme, backfill, world.event(time=format_time(utc_now() - 50 * DAY)))
    await backfills.work(world.database, world.usage_log, tmp_path, limit=9)  # type: ignore[arg-type]
    assert (await api.get(f"{PATH}/{backfill}", world.acme)).json()["state"] == "open"
    monkeypatch.setattr(backfills, "LEFT_AFTER", -DAY)
    await backfills.work(world.database, world.usage_log, tmp_path, limit=9)  # type: ignore[arg-type]
    (listed,) = (await api.get(PATH, world.acme)).json()["items"]
    assert listed["state"] == "dropped"
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.usage_backfill_event") == 0
    for action in ("start", "events"):
        answer = await api.post(f"{PATH}/{backfill}/{action}", world.acme, [world.event()])
        assert (answer.status_code, answer.json()["code"]) == (409, "backfill_not_open")
