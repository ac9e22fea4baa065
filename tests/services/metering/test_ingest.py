"""What strangers send to `POST /api/v1/events`: a verdict each, a problem, never a 5xx."""

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import format_time, utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.directory import local
from libs.ids import new_id
from metering.world import Api, World
from services.metering.usage_log import TOPIC

NOW = format_time(utc_now())


EVENTS: list[tuple[dict[str, Any], str | None]] = [
    ({"id": None}, "missing_id"),
    ({"id": ""}, "invalid_id"),
    ({"id": 7}, "invalid_id"),
    ({"id": "x" * 257}, "invalid_id"),
    ({"id": "a\x00b"}, "invalid_text"),
    ({"source": None}, "missing_source"),
    ({"type": None}, "missing_type"),
    ({"subject": "x" * 129}, "invalid_subject"),
    ({"subject": ["a"]}, "invalid_subject"),
    ({"userid": {"a": 1}}, "invalid_userid"),
    ({"specversion": "2.0"}, "unknown_specversion"),
    ({"time": "2026-01-01T00:00:00"}, "invalid_time"),
    ({"time": "0000-01-01T00:00:00Z"}, "invalid_time"),
    ({"time": 1767225600}, "invalid_time"),
    ({"time": "1767225600"}, "invalid_time"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "invalid_time"),
    ({"time": "9999-12-31T23:59:59Z"}, "time_in_future"),
    ({"time": "1999-12-31T23:59:59Z"}, "time_too_old"),
    ({"time": format_time(utc_now() + timedelta(hours=1))}, "time_in_future"),
    ({"time": format_time(utc_now() - timedelta(days=34, minutes=1))}, "time_too_old"),
    ({"mode": "live"}, "wrong_mode"),
    ({"tenantid": "00000000-0000-7000-8000-000000000009"}, "wrong_tenant"),
    ({"tenantid": "acme"}, "wrong_tenant"),
    ({"data": [1]}, "invalid_data"),
    ({"data": "calls"}, "invalid_data"),
    ({"data": {"calls": "many"}}, "invalid_value"),
    ({"data": {"calls": True}}, "invalid_value"),
    ({"data": {"calls": {"n": 1}}}, "invalid_value"),
    ({"data": {}}, "missing_value"),
    ({"data": {"calls": None}}, "missing_value"),
    ({"data": {"calls": -1}}, "negative_value"),
    ({"data": {"calls": 10**20}}, "value_out_of_range"),
    ({"data": {"calls": 2**63}}, None),
    ({"data": {"calls": 0}}, None),
    ({"data": {"calls": "1e5"}}, "invalid_value"),
    ({"data": {"calls": 1, "note": "x" * 70_000}}, "event_too_large"),
    ({"data_base64": "AAAA"}, "data_not_json"),
    ({"datacontenttype": "text/xml"}, "data_not_json"),
    ({"datacontenttype": "application/json; charset=utf-8"}, None),
    ({"user_id": "ann"}, "invalid_attribute"),
    ({"role": "admin", "tenanttype": "user"}, None),
    ({"role": ["admin"]}, "invalid_attribute"),
    ({f"x{number}": "y" for number in range(21)}, "too_many_attributes"),
    ({"receivedat": "1999-01-01T00:00:00Z", "clockoffset": 10**9}, None),
    ({"type": "nobody.listens"}, "no_meter"),
]


async def test_numbers_out_of_all_proportion_are_rejected(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = json.dumps([world.event()]).encode()
    for number in (b"1e-9999999", b"1e9999999", b"-1e-9999999", b"1e-16"):
        body = event.replace(b'"calls": 1', b'"calls": ' + number)
        answer = await api.post("/api/v1/events", world.acme, body, Content_Type="application/json")
        assert answer.status_code == 202, answer.text
        assert answer.json()["results"][0]["code"] == "value_out_of_range", number


async def test_each_event_is_judged_by_itself(api: Api, world: World) -> None:
    await api.meter(world.platform)
    events = [world.event(**change) for change, _ in EVENTS]
    verdicts = await api.send(world.acme, *events)
    for (change, code), verdict in zip(EVENTS, verdicts, strict=True):
        status = "accepted" if code in (None, "no_meter") else "rejected"
        assert (verdict["status"], verdict["code"]) == (status, code), change
    taken = sum(code is None for _, code in EVENTS)
    (row,) = await api.rows(world.acme)
    assert row["value"] == str(2**63 + taken - 2)
    on_the_topic = [record.value or b"" for record in world.log.topics[TOPIC]]
    assert not any(b"1999" in value for value in on_the_topic)
    kept = [event for event in map(json.loads, on_the_topic) if "role" in event]
    assert [(event["role"], event["tenanttype"]) for event in kept] == [("admin", "user")]


async def test_numbers_that_are_none(api: Api, world: World) -> None:
    await api.meter(world.platform)
    texts = {
        "NaN": "invalid_number",
        "-Infinity": "invalid_number",
        "1e400": "invalid_number",
        "1e999999999999999999999": "invalid_number",
        '"\\ud800"': "invalid_text",
        "1e-30": "value_out_of_range",
        "1e21": "value_out_of_range",
    }
    events = []
    for number, (text, code) in enumerate(texts.items()):
        data = f'"calls":{text}' if code == "value_out_of_range" else f'"calls":1,"n":{text}'
        events.append(f'{{"id":"{number}","source":"s","type":"api.call","data":{{{data}}}}}')
    answer = await api.post("/api/v1/events", world.acme, f"[{','.join(events)}]".encode())
    assert answer.status_code == 202
    assert [each["code"] for each in answer.json()["results"]] == list(texts.values())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"7", 400, "not_an_event"),
        (b"null", 400, "not_an_event"),
        (b"[]", 400, "empty_batch"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"n":' + b"9" * 5_000 + b"}", 400, "invalid_json"),
        (b"[" + b"{}," * 1_000 + b"{}]", 413, "too_many_events"),
        (b" " * (4 * 1024 * 1024 + 1), 413, "body_too_large"),
    ],
)
async def test_bodies_that_are_no_batch(
    api: Api, world: World, body: bytes, status: int, code: str
) -> None:
    answer = await api.post("/api/v1/events", world.acme, body, Content_Type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert world.log.topics[TOPIC] == []


async def test_items_that_are_no_objects(api: Api, world: World) -> None:
    verdicts = await api.send(world.acme, 7, None, [], "x", {})
    assert [each["status"] for each in verdicts] == ["rejected"] * 5
    assert [each["code"] for each in verdicts] == ["not_an_object"] * 4 + ["missing_id"]


async def test_a_thousand_with_one_bad(api: Api, world: World) -> None:
    await api.meter(world.platform)
    events = [world.event() for _ in range(1000)]
    events[500]["time"] = "soon"
    verdicts = await api.send(world.acme, *events)
    assert [v["status"] for v in verdicts].count("accepted") == 999
    assert [v["id"] for v in verdicts] == [event["id"] for event in events]
    assert verdicts[500]["code"] == "invalid_time"
    assert await api.value(world.acme) == 999


async def test_twins_in_one_batch(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = world.event()
    other = event | {"data": {"calls": 9}}
    elsewhere = event | {"source": "product/other"}
    verdicts = await api.send(world.acme, event, dict(event), other, elsewhere)
    assert [(v["status"], v["code"]) for v in verdicts] == [
        ("accepted", None),
        ("duplicate", None),
        ("rejected", "id_conflict"),
        ("accepted", None),
    ]
    assert await api.value(world.acme) == 2


async def test_the_same_id_with_other_content_counts_once(
    api: Api, world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.meter(world.platform)
    event = world.event()
    await api.send(world.acme, event)
    capsys.readouterr()
    await api.send(world.acme, event)
    assert "usage_id_conflict" not in capsys.readouterr().out + caplog.text
    await api.send(world.acme, event | {"data": {"calls": 5}})
    assert "usage_id_conflict" in capsys.readouterr().out + caplog.text
    assert await api.value(world.acme) == 1


async def test_an_event_without_a_time_is_of_now_and_no_conflict(
    api: Api, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await api.meter(world.platform)
    event = world.event(time=None)
    await world.move_clock(world.acme, timedelta(days=3))
    await api.send(world.acme, event)
    await api.send(world.acme, event)
    assert "usage_id_conflict" not in capsys.readouterr().out
    later = {"from": format_time(utc_now() + timedelta(days=2)), "to": _in(4)}
    assert await api.value(world.acme, **later) == 1


def _in(days: int) -> str:
    return format_time(utc_now() + timedelta(days=days))


async def test_every_form_of_cloudevents(api: Api, world: World) -> None:
    await api.meter(world.platform, value_path="calls")
    structured, batched, zipped = world.event(), [world.event(), world.event()], world.event()
    answers = [
        await api.post(
            "/api/v1/events",
            world.acme,
            json.dumps(structured).encode(),
            Content_Type="application/cloudevents+json; charset=utf-8",
        ),
        await api.post(
            "/api/v1/events",
            world.acme,
            json.dumps(batched).encode(),
            Content_Type="application/cloudevents-batch+json",
        ),
        await api.post(
            "/api/v1/events",
            world.acme,
            b'{"calls": 2.5}',
            Content_Type="application/json",
            ce_specversion="1.0",
            ce_id="binary%20one",
            ce_source="product/api",
            ce_type="api.call",
            ce_userid="ann",
        ),
        await api.post(
            "/api/v1/events",
            world.acme,
            gzip.compress(json.dumps(zipped).encode()),
            Content_Type="application/json",
            Content_Encoding="gzip",
        ),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4
    assert answers[2].json()["results"][0]["id"] == "binary one"
    await world.log.settle()
    (row,) = await api.rows(world.acme)
    assert row["value"] == "6.5"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {"Content_Type": "application/cloudevents-batch+json"}, 400),
        (b"[]", {"Content_Type": "application/cloudevents+json"}, 400),
        (b"{}", {"Content_Encoding": "br"}, 415),
        (b"{}", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"{}")[:-3], {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b"{}") * 2, {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b" " * 9 * 1024 * 1024), {"Content_Encoding": "gzip"}, 413),
    ],
)
async def test_forms_that_are_not_read(
    api: Api, world: World, body: bytes, headers: dict[str, str], status: int
) -> None:
    headers = {"Content_Type": "application/json"} | headers
    answer = await api.post("/api/v1/events", world.acme, body, **headers)
    assert answer.status_code == status, answer.text


async def test_kafka_away_is_told_and_nothing_is_lost(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = world.event()
    world.usage_log.down = True
    answer = await api.post("/api/v1/events", world.acme, [event])
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    world.usage_log.down = False
    await api.send(world.acme, event)
    assert await api.value(world.acme) == 1


async def test_naming_another_tenant_is_refused_and_recorded(api: Api, world: World) -> None:
    globex = str(world.globex.id)
    named = [world.event(tenantid=globex), world.event(tenantid=globex.upper()), world.event()]
    verdicts = await api.send(world.acme, *named, world.event(tenantid=str(world.acme.id)))
    assert [v["code"] for v in verdicts[:2]] == ["wrong_tenant"] * 2
    assert [v["status"] for v in verdicts[2:]] == ["accepted"] * 2
    (alarm,) = world.log.events(SecurityEventRaised)
    assert (alarm.tenant_id, alarm.data.kind) == (world.acme.id, "tenant_denied")
    many = [world.event(tenantid=str(new_id())) for _ in range(21)]
    answer = await api.post("/api/v1/events", world.acme, many)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_tenants")


async def test_unknown_tenants_are_waited_for_together(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at the same time: one after another they would take as long as all together."""
    monkeypatch.setattr(local, "WAIT_SECONDS", 0.5)
    waiting: list[int] = [0]
    wait_for = local.Directory.wait_for

    async def counted(self: local.Directory, kind: local.LookupKind, value: str) -> Any:
        waiting.append(waiting[-1] + 1)
        try:
            return await wait_for(self, kind, value)
        finally:
            waiting.append(waiting[-1] - 1)

    monkeypatch.setattr(local.Directory, "wait_for", counted)
    strangers = [world.event(tenantid=str(new_id())) for _ in range(16)]
    verdicts = await api.send(world.platform, *strangers, world.event(tenantid=str(world.acme.id)))
    assert [v["code"] for v in verdicts[:16]] == ["wrong_tenant"] * 16
    assert verdicts[16]["status"] == "accepted"
    assert max(waiting) >= 16


async def test_an_operator_reports_for_tenants(api: Api, world: World) -> None:
    await api.meter(world.platform)
    answer = await api.post("/api/v1/events", world.platform, [world.event()], X_Tenant_ID="acme")
    assert answer.json()["results"][0]["status"] == "accepted"
    verdicts = await api.send(
        world.platform,
        world.event(tenantid=str(world.acme.id)),
        world.event(tenantid=str(world.globex.id)),
        world.event(tenantid="00000000-0000-7000-8000-000000000009"),
    )
    assert [v["code"] for v in verdicts] == [None, None, "wrong_tenant"]
    assert await api.value(world.acme) == 2
    assert await api.value(world.globex) == 1
    assert await api.value(world.platform) == 0
