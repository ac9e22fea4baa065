"""What strangers put on `usage.events`, modes that never mix, and any order or batching."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import floor_to_minute, format_time, utc_now
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.world import Api, World
from services.metering import intake, jobs, usage_record
from services.metering.event_ids import former_hash_of_id
from services.metering.usage_log import TOPIC


async def letters(database: TestDatabase) -> list[str]:
    async with database.admin() as admin:
        rows = await admin.fetch("select reason from metering.dead_letter order by record_offset")
    return [row["reason"] for row in rows]


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "unknown_specversion"),
    ({"id": ""}, "not_an_event"),
    ({"mode": "both"}, "not_an_event"),
    ({"mode": None}, "not_an_event"),
    ({"time": "soon"}, "invalid_time"),
    ({"time": 5}, "invalid_time"),
    ({"time": "9999-12-31T23:59:59Z"}, "time_in_future"),
    ({"time": "2020-01-01T00:00:00Z"}, "time_too_old"),
    ({"tenantid": str(new_id())}, "wrong_tenant"),
    ({"receivedat": "2020-01-01T00:00:00Z"}, "received_at_mismatch"),
    ({"receivedat": "0001-01-01T00:00:00+05:00"}, "invalid_time"),
    ({"receivedat": "0001-01-01T00:00:00Z"}, "received_at_mismatch"),
    ({"receivedat": "9999-12-31T23:59:59-05:00"}, "invalid_time"),
    ({"clockoffset": 10**18}, "invalid_time"),
    ({"clockoffset": "5"}, "not_an_event"),
    ({"data": {"calls": "lots"}}, "invalid_value"),
    ({"data": {"calls": -4}}, "negative_value"),
    ({"data": {"calls": 1, "odd": "\ud800"}}, "invalid_text"),
    ({"userid": "a\x00"}, "invalid_text"),
]


async def test_bad_events_are_buried_and_the_rest_counts(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    for change, _ in BAD_EVENTS:
        world.put(world.acme, world.event() | change)
        world.put(world.acme, world.event())
    await world.log.settle()
    assert await letters(database) == [reason for _, reason in BAD_EVENTS]
    assert await api.value(world.acme) == len(BAD_EVENTS)


async def test_bad_records_are_buried(api: Api, world: World, database: TestDatabase) -> None:
    await api.meter(world.platform)
    good = json.dumps(world.event() | {"mode": "test"}).encode()
    key = str(world.acme.id).encode()
    offset = good.replace(b'"mode"', b'"clockoffset": 1e9999999, "mode"')
    for record_key, value in (
        (None, good),
        (key, None),
        (b"\xff", good),
        (key.upper(), good),
        (key, b"\xff\xfe"),
        (key, b"[]"),
        (key, b"[" * 50_000),
        (key, b'{"n":' + b"9" * 5_000 + b"}"),
        (key, b" " * 600_000),
        (key, good.replace(b'"calls": 1', b'"calls": NaN')),
        (key, good.replace(b'"calls": 1', b'"calls": 1, "n": 1e500')),
        (key, good.replace(b'"calls": 1', b'"calls": 1e-9999999')),
        (key, offset),
    ):
        world.log.append(TOPIC, record_key, value, (("type", b"\xff"), ("\ud7ff", None)))
    world.log.append(TOPIC, key, good)
    await world.log.settle()
    assert await letters(database) == [
        *("bad_key", "no_value", "bad_key", "bad_key", "not_json", "not_an_event"),
        *("not_json", "not_json", "too_large", "invalid_data", "invalid_data"),
        *("invalid_data", "not_an_event"),
    ]
    assert await api.value(world.acme) == 1


async def test_a_record_that_cannot_be_read_at_all_is_isolated(
    api: Api, world: World, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    events = [world.event() for _ in range(5)]
    straight = usage_record.read

    def read(record: Record) -> usage_record.Read:
        if events[2]["id"].encode() in (record.value or b""):
            raise ValueError("nobody foresaw this")
        return straight(record)

    monkeypatch.setattr(usage_record, "read", read)
    for event in events:
        world.put(world.acme, event)
    ahead = [intake.read_ahead(record) for record in world.log.topics[TOPIC]]
    assert [each is None for each in ahead] == [False, False, True, False, False]
    await world.log.settle()
    assert len(await letters(database)) == 1
    assert await api.value(world.acme) == 4


async def test_times_before_any_that_can_be_kept_are_refused(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    event = world.event(time="1969-12-31T23:59:59Z") | {"mode": "test"}
    key, value = str(world.acme.id).encode(), json.dumps(event).encode()
    world.log.append(TOPIC, key, value, at=datetime(1970, 1, 1, tzinfo=UTC))
    await world.log.settle()
    assert await letters(database) == ["invalid_time"]


async def test_direct_producers_are_held_against_the_brokers_time(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    event = world.event(time=format_time(utc_now() - timedelta(days=30))) | {"mode": "test"}
    key, value = str(world.acme.id).encode(), json.dumps(event).encode()
    world.log.append(TOPIC, key, value, at=utc_now() + timedelta(days=5))
    await world.log.settle()
    assert await letters(database) == ["time_too_old"]
    world.log.append(TOPIC, key, value, at=utc_now() + timedelta(days=3))
    await world.log.settle()
    assert await api.value(world.acme) == 1


async def test_modes_never_mix(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = world.event()
    world.put(world.acme, event, mode="live")
    world.put(world.acme, event)
    await world.log.settle()
    assert await api.value(world.acme) == 1


async def test_another_tenants_scope_sees_nothing(api: Api, world: World) -> None:
    await api.meter(world.platform)
    await api.meter(world.acme, key="own", aggregation="unique_count")
    now = floor_to_minute(utc_now())
    await api.send(world.acme, world.event())
    await world.close(world.acme, now - timedelta(days=1), now, "api_calls")
    await world.answers()
    tables = (
        *("meter", "usage_event_id", "usage_series", "usage_minute", "usage_unique"),
        *("usage_progress", "closure", "closure_usage"),
    )
    for tenant, mode, visible in (
        (world.globex.id, "test", False),
        (world.acme.id, "live", False),
        (world.acme.id, "test", True),
    ):
        async with world.database.tenant(tenant, mode) as tx:  # type: ignore[arg-type]
            for table in tables:
                assert bool(await tx.fetchval(f"select count(*) from {table}")) is visible, table
            parts = await tx.fetchval("select count(*) from usage_event_id_00, usage_event_id_01")
            assert not parts or visible
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.tenant(world.acme.id, "test") as tx:
            await tx.execute("update meter set aggregation = 'max'")


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    order=st.permutations(range(24)),
    repeats=st.lists(st.integers(0, 23), max_size=20),
    cuts=st.sets(st.integers(1, 40), max_size=6),
)
async def test_any_order_duplication_and_batching_gives_the_same_aggregates(
    meters_of_all_kinds: World, order: list[int], repeats: list[int], cuts: set[int]
) -> None:
    world = meters_of_all_kinds
    start = floor_to_minute(utc_now()) - timedelta(hours=2)
    events = [
        world.event(
            id=f"p-{number}",
            time=format_time(start + timedelta(seconds=20 * (number % 7))),
            userid=f"u{number % 3}",
            data={"calls": number % 5, "region": "eu" if number % 2 else "us"},
        )
        for number in range(24)
    ]
    straight = await _aggregates(world, [events])
    sequence = [events[number] for number in order] + [events[number] for number in repeats]
    edges = [0, *sorted(cuts), len(sequence)]
    batches = [sequence[start:end] for start, end in pairwise(edges)]
    assert await _aggregates(world, batches) == straight
    assert sum(counted[1] for counted in straight) == 24 * 10, "nine meters, and ranks of one"


@pytest.fixture
async def meters_of_all_kinds(api: Api, world: World) -> World:
    for aggregation in (
        *("sum", "min", "max", "avg", "unique_count", "latest"),
        *("percentile", "time_weighted_sum"),
    ):
        await api.meter(
            world.platform, key=aggregation, aggregation=aggregation, group_by=["region"]
        )
    await api.meter(world.platform, key="count", aggregation="count", value_path=None)
    return world


async def _aggregates(world: World, batches: list[list[dict[str, Any]]]) -> list[tuple[Any, ...]]:
    """What a new tenant's aggregates are after these batches."""
    tenant = new_id()
    for number, batch in enumerate(batches):
        records = [
            Record(
                TOPIC,
                0,
                1000 * number + offset,
                utc_now(),
                str(tenant).encode(),
                json.dumps(event | {"mode": "test"}).encode(),
            )
            for offset, event in enumerate(batch)
        ]
        async with world.database.transaction() as tx:
            await intake.take(records, tx)
    async with world.database.tenant(tenant, "test") as tx:
        minutes = await tx.fetch(
            "select series_id || ' ' || minute, event_count, total, minimum, maximum, latest, "
            "latest_at, latest_id, first_at from usage_minute order by 1"
        )
        ranks = await tx.fetch(
            "select series_id || ' ' || minute || ' ' || value, event_count from usage_rank order by 1"
        )
        uniques = await tx.fetchval("select count(*) from usage_unique")
    return [*(tuple(row) for row in (*minutes, *ranks)), (f"uniques {uniques}", 0)]


async def test_sums_beyond_float_and_context_precision(api: Api, world: World) -> None:
    await api.meter(world.platform)
    for value in ("99999999999999999999", "0.000000000000001", "99999999999999999999.5"):
        world.put(world.acme, world.event(data={"calls": value}))
    await world.log.settle()
    assert await api.value(world.acme) == Decimal("199999999999999999998.500000000000001")


async def test_ids_entered_under_the_former_hash_count_once_until_they_are_pruned(
    metering: Database, api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    known, other = world.event(id=str(new_id())), world.event(id=str(new_id()))
    await api.send(world.acme, known)
    former = former_hash_of_id(known["source"], known["id"])
    async with database.admin() as admin:
        await admin.execute("update metering.usage_event_id set id_hash = $1", former)
        await admin.execute("insert into metering.former_ids values (current_date - 40)")
    await api.send(world.acme, known, other, world.event())
    assert await api.value(world.acme) == 3
    await jobs.prune_event_ids(metering)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.former_ids") == 0
    await api.send(world.acme, other)
    assert await api.value(world.acme) == 3


async def test_pruning_goes_on_until_nothing_is_left(
    metering: Database, api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform, aggregation="min")
    await api.send(world.acme, *[world.event() for _ in range(5)])
    async with metering.tenant(world.acme.id, "test") as tx:
        await tx.execute("update usage_event_id set received_day = received_day - 40")
        await tx.execute("update usage_value set minute = minute - interval '80 days'")
    monkeypatch.setattr(jobs, "PRUNED_IDS_MAX", 2)
    await jobs.prune_event_ids(metering)
    await jobs.prune_usage_values(metering)
    async with metering.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select count(*) from usage_event_id") == 0
        assert await tx.fetchval("select count(*) from usage_value") == 0


async def test_pruning_forgets_only_what_is_beyond_the_window(
    metering: Database, api: Api, world: World
) -> None:
    await api.meter(world.platform)
    await api.send(world.acme, world.event(), world.event())
    async with metering.tenant(world.acme.id, "test") as tx:
        await tx.execute(
            "update usage_event_id set received_day = received_day - 40 where id_hash = "
            "(select min(id_hash::text)::bytea from usage_event_id)"
        )
    await jobs.prune_event_ids(metering)
    async with metering.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select count(*) from usage_event_id") == 1
