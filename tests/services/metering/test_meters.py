"""Meters: what each aggregation adds up, filters, groups, who may define and see them."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from metering.world import Api, World
from services.metering.meters import METERS_OF_TYPE_MAX

AGGREGATIONS = {
    "count": "5",
    "sum": "10.3",
    "min": "0",
    "max": "4.1",
    "avg": "2.06",
    "unique_count": "4",
    "latest": "2.2",
    "percentile": "4.1",
}


async def test_every_aggregation_is_exact(api: Api, world: World) -> None:
    for aggregation in AGGREGATIONS:
        path = None if aggregation == "count" else "size"
        await api.meter(world.platform, key=aggregation, aggregation=aggregation, value_path=path)
    now = floor_to_minute(utc_now()) - timedelta(minutes=30)
    sizes = [Decimal("4.1"), Decimal("2.0"), 0, "2", Decimal("2.2")]
    times = [now, now + timedelta(minutes=1), now, now + timedelta(minutes=2), now]
    times[4] = now + timedelta(minutes=9)
    for size, time in zip(sizes, times, strict=True):
        text = f'"{size}"' if isinstance(size, str) else str(size)
        event = json.dumps(world.event(time=format_time(time), data={"size": "SIZE"}))
        body = event.replace('"SIZE"', text)
        answer = await api.post("/api/v1/events", world.acme, body.encode())
        assert answer.json()["results"][0]["status"] == "accepted", answer.text
    await world.log.settle()
    for aggregation, expected in AGGREGATIONS.items():
        (row,) = await api.rows(world.acme, aggregation)
        assert row["value"] == expected, aggregation


async def test_decimals_never_pass_through_floats(api: Api, world: World) -> None:
    await api.meter(world.platform)
    body = (
        '[{"id":"a","source":"s","type":"api.call","data":{"calls":0.1}},'
        '{"id":"b","source":"s","type":"api.call","data":{"calls":0.2}},'
        '{"id":"c","source":"s","type":"api.call","data":{"calls":12345678901234567890.5}},'
        '{"id":"d","source":"s","type":"api.call","data":{"calls":"0.000000000000001"}},'
        '{"id":"e","source":"s","type":"api.call","data":{"calls":1e3}}]'
    )
    answer = await api.post("/api/v1/events", world.acme, body.encode())
    assert {each["status"] for each in answer.json()["results"]} == {"accepted"}, answer.text
    await world.log.settle()
    (row,) = await api.rows(world.acme)
    assert row["value"] == "12345678901234568890.800000000000001"


async def test_filters_and_groups(api: Api, world: World) -> None:
    await api.meter(
        world.acme,
        filters={"http.status": ["200", "204"], "ok": ["true"]},
        group_by=["region", "http.method"],
    )
    good = {"calls": 1, "ok": True, "region": "eu", "http": {"status": 200, "method": "GET"}}
    await api.send(
        world.acme,
        world.event(data=good),
        world.event(data=good | {"http": {"status": "204", "method": "PUT"}}),
        world.event(data=good | {"region": None}),
        world.event(data=good | {"ok": False}),
        world.event(data=good | {"http": {"status": 500, "method": "GET"}}),
        world.event(data=good | {"http": 7}),
    )
    assert await api.value(world.acme) == 3
    rows = await api.rows(world.acme, group_by="region")
    assert {row["group"]["region"]: row["value"] for row in rows} == {"eu": "2", "": "1"}
    rows = await api.rows(world.acme, group_by=["region", "http.method"])
    assert len(rows) == 3
    answer = await api.get("/api/v1/meters/api_calls/query", world.acme, group_by="user")
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_group")


async def test_what_comes_in_another_unit_is_not_counted_by_a_meter_of_one(
    api: Api, world: World
) -> None:
    await api.meter(world.acme, value_path="size", filters={"unit": ["GB"]})
    sizes = [{"size": 2, "unit": "GB"}, {"size": 2_048, "unit": "MB"}, {"size": 3}]
    await api.send(world.acme, *(world.event(data=data) for data in sizes))
    assert await api.value(world.acme) == 2


async def test_windows_customers_and_users(api: Api, world: World) -> None:
    await api.meter(world.platform)
    base = floor_to_minute(utc_now()).replace(minute=0, hour=0) - timedelta(days=3)
    events = [
        world.event(time=format_time(base + timedelta(hours=hour)), userid=user, subject=subject)
        for hour, user, subject in (
            (0, "ann", None),
            (1, "bob", None),
            (25, "ann", "shop-7"),
            (26, None, f"cus_{world.acme.self_customer_id}"),
        )
    ]
    await api.send(world.acme, *events)
    assert await api.value(world.acme) == 4
    assert await api.value(world.acme, customer="self") == 3
    assert await api.value(world.acme, customer="shop-7") == 1
    assert await api.value(world.acme, user="ann") == 2
    days = await api.rows(world.acme, window="day")
    assert [(row["from"], row["value"]) for row in days] == [
        (format_time(base), "2"),
        (format_time(base + timedelta(days=1)), "2"),
    ]
    hours = await api.rows(world.acme, window="hour")
    assert [row["value"] for row in hours] == ["1"] * 4
    assert hours[0]["to"] == format_time(base + timedelta(hours=1))
    assert sum(int(row["value"]) for row in await api.rows(world.acme, window="month")) == 4


async def test_a_tenants_own_meter_stays_its_own(api: Api, world: World) -> None:
    meter = await api.meter(world.acme)
    for path in ("/api/v1/meters/api_calls", f"/api/v1/meters/{meter['id']}"):
        assert (await api.get(path, world.acme)).json() == meter
        assert (await api.get(path, world.globex)).status_code == 404
        assert (await api.get(f"{path}/query", world.globex)).status_code == 404
    await api.meter(world.globex)
    await api.send(world.acme, world.event())
    assert await api.value(world.acme) == 1
    assert await api.value(world.globex) == 0
    listed = (await api.get("/api/v1/meters", world.globex)).json()["items"]
    assert [each["owner"] for each in listed] == ["tenant"]


async def test_a_meter_of_the_tenant_never_keeps_the_platform_from_counting(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    await api.meter(world.acme, key="own", value_path="something_else")
    (verdict,) = await api.send(world.acme, world.event())
    assert verdict["status"] == "accepted"
    assert await api.value(world.acme) == 1
    assert await api.value(world.acme, "own") == 0


async def test_who_may(api: Api, world: World) -> None:
    body = {"key": "m", "event_type": "t", "aggregation": "count"}
    reader = {"X-API-Key": world.acme.keys[1]}
    answer = await api.client.post("/api/v1/meters", json=body, headers=reader)
    assert answer.status_code == 403
    answer = await api.client.post("/api/v1/events", json=world.event(), headers=reader)
    assert (answer.status_code, answer.json()["permission"]) == (403, "usage:write")
    answer = await api.client.post("/api/v1/events", json=world.event())
    assert answer.status_code == 401
    own = {"X-API-Key": world.globex.keys[0], "X-Tenant-ID": str(world.acme.id)}
    answer = await api.client.post("/api/v1/events", json=world.event(), headers=own)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"key": "with space"}, 422),
        ({"key": "x" * 200}, 422),
        ({"aggregation": "median"}, 422),
        ({"value_path": None}, 422),
        ({"value_path": "$.calls"}, 422),
        ({"aggregation": "count"}, 422),
        ({"event_type": "a\x00b"}, 422),
        ({"group_by": ["a", "a"]}, 422),
        ({"group_by": [f"g{number}" for number in range(6)]}, 422),
        ({"filters": {"a": []}}, 422),
        ({"filters": {"a": ["\x00"]}}, 422),
        ({"id": "mtr_1"}, 422),
    ],
)
async def test_bad_meters_are_refused(
    api: Api, world: World, change: dict[str, Any], status: int
) -> None:
    body = {
        "key": "api_calls",
        "event_type": "api.call",
        "aggregation": "sum",
        "value_path": "calls",
    } | change
    answer = await api.post("/api/v1/meters", world.acme, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_key_is_taken_once(api: Api, world: World) -> None:
    body = {"key": "m", "event_type": "t", "aggregation": "count"}
    first = await api.post("/api/v1/meters", world.acme, body, Idempotency_Key="k")
    again = await api.post("/api/v1/meters", world.acme, body, Idempotency_Key="k")
    assert (first.status_code, again.json()) == (201, first.json())
    twin = await api.post("/api/v1/meters", world.acme, body)
    assert (twin.status_code, twin.json()["code"]) == (409, "meter_exists")


async def test_one_event_is_held_against_so_many_meters_of_a_tenant_at_most(
    api: Api, world: World
) -> None:
    for number in range(METERS_OF_TYPE_MAX):
        await api.meter(world.acme, key=f"m{number}")
    body = {"key": "one_more", "event_type": "api.call", "aggregation": "count"}
    refused = await api.post("/api/v1/meters", world.acme, body)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_meters")
    await api.meter(world.acme, key="of_another_type", event_type="job.run")
    await api.meter(world.globex)


@pytest.mark.parametrize(
    "params",
    [
        {"from": "yesterday"},
        {"from": "2026-01-01T00:00:00"},
        {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"},
        {"window": "fortnight"},
        {"user": "\x00"},
        {"customer": "x" * 200},
        {"group_by": ["a"] * 9},
    ],
)
async def test_bad_queries_are_refused(api: Api, world: World, params: dict[str, Any]) -> None:
    await api.meter(world.acme)
    answer = await api.client.get(
        "/api/v1/meters/api_calls/query",
        params=params,
        headers={"X-API-Key": world.acme.keys[0]},
    )
    assert answer.status_code in (400, 422), answer.text


async def test_too_many_rows_say_so(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.routes_usage.ROWS_MAX", 3)
    await api.meter(world.acme)
    now = utc_now()
    events = [world.event(time=format_time(now - timedelta(minutes=n))) for n in range(4)]
    await api.send(world.acme, *events)
    answer = await api.get("/api/v1/meters/api_calls/query", world.acme, window="hour")
    assert answer.status_code == 200
    answer = await api.get(
        "/api/v1/meters/api_calls/query",
        world.acme,
        window="minute",
        from_=format_time(now - timedelta(hours=1)),
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_rows")
