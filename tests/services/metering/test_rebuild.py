"""Rebuilds: the same aggregates out of archive and topic, differences found, nothing live touched."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.directory.local import Directory
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from metering.reading import MemoryUsageReader
from metering.test_corrections import correct, named
from metering.test_reporters import mark_since
from metering.world import Api, Party, World, checksums
from services.metering import archiving, jobs, rebuilding
from services.metering.event_ids import former_hash_of_id
from services.metering.usage_log import TOPIC

DAY = timedelta(days=1)


@dataclass
class Rebuilds:
    """Asks for rebuilds and works on them."""

    api: Api
    world: World
    reader: MemoryUsageReader
    folder: Path
    dsn: str

    async def archive(self) -> None:
        await archiving.archive_usage(
            self.world.database,
            self.reader,  # type: ignore[arg-type]
            self.folder,
            timedelta(),
        )

    async def run(self, party: Party, source: str = "archive") -> dict[str, Any]:
        """A rebuild of a tenant, at its end."""
        headers = {"X-Tenant-ID": str(party.id)}
        answer = await self.api.post(
            "/api/v1/usage/rebuilds", self.world.platform, {"source": source}, **headers
        )
        assert answer.status_code == 202, answer.text
        await rebuilding.rebuild_next(
            self.world.database,
            self.reader,  # type: ignore[arg-type]
            self.folder,
            self.dsn,
            Directory(self.world.database),
        )
        found = await self.api.client.get(
            f"/api/v1/usage/rebuilds/{answer.json()['id']}",
            headers={"X-API-Key": self.world.platform.keys[0], **headers},
        )
        run: dict[str, Any] = found.json()
        return run


@pytest.fixture
async def rebuilds(api: Api, world: World, database: TestDatabase, tmp_path: Path) -> Rebuilds:
    return Rebuilds(
        api, world, MemoryUsageReader(world.log, stretch=7), tmp_path, database.dsn("metering")
    )


async def use(rebuilds: Rebuilds) -> UUID:
    """Usage of every kind, with duplicates, late events and a closed period; the closure's id."""
    api, world = rebuilds.api, rebuilds.world
    for aggregation in (
        *("sum", "min", "avg", "unique_count", "latest"),
        *("percentile", "time_weighted_sum"),
    ):
        await api.meter(
            world.platform, key=aggregation, aggregation=aggregation, group_by=["region"]
        )
    now = floor_to_minute(utc_now())
    events = [
        world.event(
            time=format_time(now - timedelta(minutes=3 * number)),
            data={"calls": f"{number}.50", "region": "eu" if number % 2 else "us"},
            subject=None if number % 3 else "shop-7",
        )
        for number in range(20)
    ]
    await api.send(world.acme, *events[:9])
    await api.send(world.globex, *events[:4])
    await rebuilds.archive()
    await api.send(world.acme, *events)
    await api.meter(world.acme, key="late", aggregation="max")
    await api.send(world.acme, world.event(data={"calls": 3, "region": "eu"}))
    wrong = {"id": events[3]["id"], "source": events[3]["source"]}
    answer = await api.post(
        "/api/v1/events/void", world.acme, {"reason": "a mistake", "events": [wrong]}
    )
    assert answer.status_code == 202
    await world.log.settle()
    fact = await world.close(
        world.acme, now - DAY, now + timedelta(minutes=1), "sum", "latest", "time_weighted_sum"
    )
    await world.move_clock(world.acme, DAY)
    assert len(await world.answers()) == 3
    return fact.closure_id


@pytest.mark.parametrize("source", ["archive", "topic"])
async def test_a_rebuild_gives_the_same_aggregates(
    rebuilds: Rebuilds, world: World, database: TestDatabase, source: str
) -> None:
    await use(rebuilds)
    before = await checksums(database)
    run = await rebuilds.run(world.acme, source)
    assert run["state"] == "equal", run
    compared = run["compared"]
    # A meter counts what came in since it was defined, in a rebuild too: one event for `late`.
    assert compared["usage_series"]["rebuilt"] == 7 * 4 + 1
    assert compared["usage_minute"]["rebuilt"] == 7 * 19 + 7 + 1
    assert compared["usage_rank"]["rebuilt"] == 19 + 1
    assert compared["closure_usage"]["live"] == 3
    assert run["records_read"] == 9 + 20 + 1 + 1
    after = await checksums(database)
    assert {name: sums for name, sums in after.items() if name != "outbox"} == {
        name: sums for name, sums in before.items() if name != "outbox"
    }
    await world.log.settle()
    actions = [event.data.action for event in world.log.events(ConfigurationChanged)]
    assert actions.count("usage.rebuild_requested") == 1


async def test_differences_are_found_and_told(rebuilds: Rebuilds, world: World) -> None:
    closure = await use(rebuilds)
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute(
            "update usage_minute set total = total + 1 where total = 1.5 and event_count = 1"
        )
        await tx.execute("update closure_usage set quantity = quantity + 1 where meter = 'latest'")
    run = await rebuilds.run(world.acme)
    assert run["state"] == "different"
    minutes, answers = run["compared"]["usage_minute"], run["compared"]["closure_usage"]
    assert (minutes["only_live"], minutes["only_rebuilt"]) == (2, 2)
    assert "2.5" in minutes["live_rows"][0]
    assert str(closure) in answers["live_rows"][0]
    assert rebuilding.USAGE_REBUILD_DIFFERENCES._value.get() == 2 + 2 + 1 + 1


async def test_what_the_source_lacks_is_said(rebuilds: Rebuilds, world: World) -> None:
    await use(rebuilds)
    rebuilds.reader.begin = 3
    run = await rebuilds.run(world.acme, "topic")
    assert (run["state"], run["compared"]) == ("failed", None)
    assert "begins at 3" in run["error"]
    assert (await rebuilds.run(world.acme))["state"] == "equal", "the archive has what is gone"
    for path in rebuilds.folder.rglob("*.parquet"):
        path.unlink()
    run = await rebuilds.run(world.acme)
    assert run["state"] == "failed"
    assert "No such file" in run["error"]


async def test_usage_that_comes_in_meanwhile_is_no_difference(
    rebuilds: Rebuilds, api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(rebuilds)
    compare = rebuilding.Rebuild._count_tail

    async def busy(self: Any, tx: Any, fences: Any) -> None:
        """More is counted after the snapshot was taken."""
        await api.send(world.acme, world.event(data={"calls": 9, "region": "eu"}))
        await compare(self, tx, fences)

    monkeypatch.setattr(rebuilding.Rebuild, "_count_tail", busy)
    assert (await rebuilds.run(world.acme))["state"] == "equal"


async def test_a_run_that_was_left_is_begun_again(
    rebuilds: Rebuilds, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(rebuilds)

    async def crash(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(rebuilding.Rebuild, "_compare", crash)
        with pytest.raises(ConnectionError):
            await rebuilds.run(world.acme)
    again = await rebuilds.api.post(
        "/api/v1/usage/rebuilds", world.platform, {}, **{"X-Tenant-ID": str(world.acme.id)}
    )
    assert (again.status_code, again.json()["code"]) == (409, "rebuild_under_way")
    async with world.database.maintenance() as tx:
        await tx.execute("update usage_rebuild set worked_at = worked_at - interval '10 minutes'")
    await rebuilding.rebuild_next(
        world.database,
        rebuilds.reader,  # type: ignore[arg-type]
        rebuilds.folder,
        rebuilds.dsn,
        Directory(world.database),
    )
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select state from usage_rebuild") == "equal"


async def test_a_run_that_never_ends_is_given_up(
    rebuilds: Rebuilds, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(rebuilds)
    directory = Directory(world.database)

    async def crash(*_: object) -> None:
        raise ArithmeticError("each time")

    monkeypatch.setattr(rebuilding.Rebuild, "_compare", crash)
    with pytest.raises(ArithmeticError):
        await rebuilds.run(world.acme)
    for begun_again in (True, True, False):
        async with world.database.maintenance() as tx:
            await tx.execute("update usage_rebuild set worked_at = now() - interval '1 hour'")
        again = rebuilding.rebuild_next(
            world.database,
            rebuilds.reader,  # type: ignore[arg-type]
            rebuilds.folder,
            rebuilds.dsn,
            directory,
        )
        if begun_again:
            with pytest.raises(ArithmeticError):
                await again
        else:
            await again
    async with world.database.tenant(world.acme.id, "test") as tx:
        row = await tx.fetchrow("select state, error from usage_rebuild")
    assert row is not None
    assert row["state"] == "failed"
    assert "begun 3 times" in row["error"]


async def test_an_archive_that_lacks_the_beginning_says_so(
    rebuilds: Rebuilds, api: Api, world: World
) -> None:
    await api.meter(world.platform)
    await api.send(world.acme, *[world.event() for _ in range(4)])
    rebuilds.reader.begin = 2
    await rebuilds.archive()
    run = await rebuilds.run(world.acme)
    assert run["state"] == "failed"
    assert "begins at 2" in run["error"]


async def test_ids_that_were_forgotten_and_hashes_of_before_are_no_difference(
    rebuilds: Rebuilds, api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform, key="last", aggregation="latest")
    event, other = world.event(id=str(new_id())), world.event(id=str(new_id()))
    await api.send(world.acme, event, other)
    async with database.admin() as admin:
        former = former_hash_of_id(other["source"], other["id"])
        await admin.execute("update metering.usage_minute set latest_id = $1", former)
        await admin.execute("update metering.usage_event_id set received_day = received_day - 40")
    await jobs.prune_event_ids(world.database)
    later = utc_now() + timedelta(days=40)
    value = json.dumps(event | {"mode": "test", "time": format_time(later)}).encode()
    world.log.append(TOPIC, str(world.acme.id).encode(), value, at=later)
    await world.log.settle()
    run = await rebuilds.run(world.acme, "topic")
    assert run["state"] == "equal", run
    assert run["compared"]["usage_minute"]["live"] == 2


async def test_what_the_platform_reports_is_counted_anew_as_it_was(
    rebuilds: Rebuilds, api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    await mark_since(database, 1)
    parts = {"tenantid": str(world.acme.id), "data": {"calls": 7}}
    before, after = world.event(**parts), world.event(**parts)
    await api.send(world.platform, before)
    await mark_since(database, 0)
    await api.send(world.platform, before, after)
    await api.send(world.acme, after | {"data": {"calls": 1}})
    await correct(api, world.acme, "void", named(after))
    assert await api.value(world.acme) == 14
    await rebuilds.archive()
    for source in ("archive", "topic"):
        run = await rebuilds.run(world.acme, source)
        assert run["state"] == "equal", run


async def test_only_the_staff_rebuilds(rebuilds: Rebuilds, world: World) -> None:
    answer = await rebuilds.api.post("/api/v1/usage/rebuilds", world.acme, {})
    assert answer.status_code == 403
    assert world.log.topics[TOPIC] == []
