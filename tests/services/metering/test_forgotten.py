"""A correction of what is too old to be corrected says so, and changes and records nothing."""

import shutil
from datetime import timedelta
from pathlib import Path

from libs.clock import floor_to_minute, format_time, utc_now
from libs.testing.databases import TestDatabase
from metering.test_backfills import archived
from metering.test_corrections import correct, named
from metering.world import Api, World
from services.metering.usage_log import TOPIC

DAY = timedelta(days=1)


async def test_what_is_too_old_to_be_corrected_is_refused(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    # Given an event that was counted so long ago that its id is forgotten,
    await api.meter(world.platform)
    ago = floor_to_minute(utc_now()) - 60 * DAY
    event = world.event(time=format_time(ago), data={"calls": 100})
    await archived(world, database, tmp_path, ago, event)
    span = {"from": format_time(ago - DAY), "to": format_time(utc_now() + DAY)}
    assert await api.value(world.acme, **span) == 100
    published = len(world.log.topics[TOPIC])
    # when it is voided, or amended by an event of now,
    right = named(event) | {"event": world.event(time=None, data={"calls": 90})}
    for kind, wanted in (("void", named(event)), ("amend", right)):
        told = await correct(api, world.acme, kind, wanted)
        # then it is refused: neither is anything published nor a correction recorded.
        assert [(each["status"], each["code"]) for each in told["results"]] == [
            ("rejected", "too_old_to_correct")
        ]
        assert told["correction"] is None
    assert await api.value(world.acme, **span) == 100
    assert len(world.log.topics[TOPIC]) == published
    assert (await api.get("/api/v1/usage/corrections", world.acme)).json()["items"] == []
    # A void of an event that never came may come before it still.
    coming = world.event()
    told = await correct(api, world.acme, "void", named(coming))
    assert told["results"][0]["code"] == "not_counted_yet"
    await api.send(world.acme, coming)
    assert await api.value(world.acme, **span) == 100


async def test_where_the_archive_does_not_tell_nothing_is_promised(
    api: Api, world: World, database: TestDatabase, tmp_path: Path
) -> None:
    await api.meter(world.platform)
    ago = floor_to_minute(utc_now()) - 60 * DAY
    event = world.event(time=format_time(ago), data={"calls": 100})
    await archived(world, database, tmp_path, ago, event)
    fresh = world.event()
    await api.send(world.acme, fresh)
    for change in (
        "lost_records = 1",
        "lost_records = 0, first_offset = 3",
        "first_offset = 0, archived_at = now() - interval '50 days'",
    ):
        async with database.admin() as admin:
            await admin.execute(f"update metering.archive_place set {change} where partition = 0")
        told = await correct(api, world.acme, "void", named(world.event()), named(event))
        assert [(each["status"], each["code"]) for each in told["results"]] == [
            ("rejected", "may_be_too_old"),
            ("rejected", "too_old_to_correct"),
        ], change
    shutil.rmtree(tmp_path)
    told = await correct(api, world.acme, "void", named(event), named(fresh))
    assert [(each["status"], each["code"]) for each in told["results"]] == [
        ("rejected", "may_be_too_old"),
        ("accepted", None),
    ]
