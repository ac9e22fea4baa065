"""Windows by the clocks of a time zone: days of 23 and 25 hours, odd offsets, the tenant's own zone."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import UnknownZoneError, format_time, zone_named
from libs.contracts.tenants import ConfigRecord
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.world import Api, World, publish_snapshot
from services.metering import intake
from services.metering.usage_log import TOPIC
from services.metering.windows import Window, edges_of, month_of

HOUR = timedelta(hours=1)
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)


def lengths(window: Window, name: str, start: datetime, days: int) -> list[float]:
    edges = edges_of(window, zone_named(name), start, start + timedelta(days=days))
    return [(end - begin) / HOUR for begin, end in pairwise(edges)]


def test_days_on_which_clocks_are_moved() -> None:
    assert lengths("day", "Europe/Berlin", SPRING - HOUR, 1) == [23, 24]
    assert lengths("day", "Europe/Berlin", AUTUMN - 2 * HOUR, 1) == [25]
    assert lengths("day", "UTC", SPRING, 2) == [24, 24]
    # Clocks that are moved at midnight: a day that begins at one, and one with two midnights.
    assert edges_of(
        "day", zone_named("Asia/Beirut"), datetime(2026, 3, 28, 22, tzinfo=UTC), SPRING
    )[0] == datetime(2026, 3, 28, 22, tzinfo=UTC)
    assert lengths("day", "Asia/Beirut", datetime(2026, 3, 28, 22, tzinfo=UTC), 1) == [23, 24]
    assert lengths("day", "America/Havana", datetime(2026, 11, 1, 4, tzinfo=UTC), 1) == [25]


def test_months_and_odd_offsets() -> None:
    start, end = month_of(AUTUMN, zone_named("Europe/Berlin"))
    assert (end - start) == timedelta(days=31, hours=1)
    assert start == datetime(2026, 9, 30, 22, tzinfo=UTC)
    assert month_of(datetime(2026, 12, 31, 23, 59, tzinfo=UTC), UTC) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    (begin, _) = edges_of("hour", zone_named("Asia/Kolkata"), AUTUMN, AUTUMN + timedelta(minutes=9))
    assert begin == AUTUMN - timedelta(minutes=30)


@given(
    window=st.sampled_from(["hour", "day", "month"]),
    name=st.sampled_from(
        [
            *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Asia/Beirut"),
            *("America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham"),
        ]
    ),
    minute=st.integers(0, 60 * 24 * 365 * 30),
    length=st.integers(1, 60 * 24 * 90),
)
def test_windows_leave_nothing_out(window: Window, name: str, minute: int, length: int) -> None:
    start = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    end = start + timedelta(minutes=length)
    edges = edges_of(window, zone_named(name), start, end)
    assert edges[0] <= start < edges[1]
    assert edges[-2] < end <= edges[-1]
    assert all(begin < following for begin, following in pairwise(edges))
    assert all(edge.second == 0 for edge in edges)


@pytest.mark.parametrize(
    "name", ["", "Europe/Atlantis", "../etc/passwd", "/etc/localtime", "europe/berlin", "a" * 64]
)
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(UnknownZoneError):
        zone_named(name)


async def count_at(world: World, database: TestDatabase, *times: datetime) -> None:
    """Usage of the past: a record, and the meters there are, are judged by the time it came in."""
    async with database.admin() as admin:
        await admin.execute("update metering.meter set created_at = $1", times[0] - HOUR)
    records = [
        Record(
            TOPIC,
            0,
            offset,
            at,
            str(world.acme.id).encode(),
            json.dumps(world.event(time=format_time(at)) | {"mode": "test"}).encode(),
        )
        for offset, at in enumerate(times)
    ]
    async with world.database.transaction() as tx:
        await intake.take(records, tx)


async def test_usage_by_the_day_of_a_time_zone(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    midnight = AUTUMN - 2 * HOUR
    await count_at(
        world,
        database,
        *[midnight + timedelta(minutes=30) + hour * HOUR for hour in range(-2, 27)],
    )
    span = {"from": format_time(midnight - 24 * HOUR), "to": format_time(midnight + 49 * HOUR)}
    rows = await api.rows(world.acme, window="day", time_zone="Europe/Berlin", **span)
    assert [(row["from"], row["to"], row["value"]) for row in rows] == [
        ("2026-10-23T22:00:00Z", "2026-10-24T22:00:00Z", "2"),
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "25"),
        ("2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z", "2"),
    ]
    hours = await api.rows(world.acme, window="hour", time_zone="Europe/Berlin", **span)
    assert len(hours) == 29, "the hour that comes twice is two"
    (month,) = await api.rows(world.acme, window="month", time_zone="Europe/Berlin", **span)
    assert month["value"] == "29"


async def test_a_tenant_has_its_own_zone(api: Api, world: World, database: TestDatabase) -> None:
    await api.meter(world.platform)
    midnight = AUTUMN - 2 * HOUR
    await count_at(world, database, midnight - HOUR, midnight)
    span = {"from_": format_time(midnight - 24 * HOUR), "to": format_time(midnight + 24 * HOUR)}

    async def days(**params: Any) -> tuple[str, list[str]]:
        told = await api.get(
            "/api/v1/meters/api_calls/query", world.acme, window="day", **span, **params
        )
        body = told.json()
        return body["time_zone"], [row["value"] for row in body["rows"]]

    assert await days() == ("UTC", ["2"])
    config = (ConfigRecord(namespace="metering", version=1, values={"time_zone": "Europe/Berlin"}),)
    snapshot = world.acme.snapshot.model_copy(update={"version": 2, "config": config})
    publish_snapshot(world.log, world.acme.id, snapshot)
    await world.log.settle()
    assert await days() == ("Europe/Berlin", ["1", "1"])
    assert await days(time_zone="UTC") == ("UTC", ["2"])
    report = (await api.get("/api/v1/usage/report", world.acme)).json()
    assert report["time_zone"] == "Europe/Berlin"
    assert report["period"]["from"][11:] in ("22:00:00Z", "23:00:00Z")
    for path in ("/api/v1/meters/api_calls/query", "/api/v1/usage/report"):
        answer = await api.get(path, world.acme, time_zone="Europe/Atlantis")
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_time_zone")
        answer = await api.get(
            path, world.acme, from_="0001-01-01T00:00:01Z", to="0001-02-01T00:00:00Z", window="day"
        )
        assert answer.status_code in (200, 400), answer.text
