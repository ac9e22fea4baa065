"""Voids and amendments: what an event added goes, whenever they come, and everything agrees again."""

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.ids import new_id
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from metering.test_intake import letters, meters_of_all_kinds
from metering.world import Api, Party, World, checksums
from services.metering import intake, jobs
from services.metering.event_ids import former_hash_of_id
from services.metering.usage_log import TOPIC
from services.metering.voiding import SOURCE, VOIDED

__all__ = ["meters_of_all_kinds"]

DAY = timedelta(days=1)


async def correct(
    api: Api, party: Party, kind: str, *events: dict[str, Any], status: int = 202
) -> dict[str, Any]:
    """Correct usage and let it be counted; the answer."""
    body = {"reason": "counted by mistake", "events": list(events)}
    answer = await api.post(f"/api/v1/events/{kind}", party, body)
    assert answer.status_code == status, answer.text
    await api.world.log.settle()
    told: dict[str, Any] = answer.json()
    return told


def named(event: dict[str, Any]) -> dict[str, str]:
    return {"id": event["id"], "source": event["source"]}


async def test_a_void_takes_back_what_an_event_added(api: Api, world: World) -> None:
    await api.meter(world.platform)
    await api.meter(world.platform, key="peak", aggregation="max")
    now = floor_to_minute(utc_now())
    at = format_time(now - DAY)
    wrong, right = (world.event(time=at, data={"calls": calls}) for calls in (70, 3))
    await api.send(world.acme, wrong, right)
    await world.close(world.acme, now - 2 * DAY, now, "api_calls", "peak")
    assert {each.meter: each.quantity for each in await world.answers()} == {
        "api_calls": 73,
        "peak": 70,
    }
    told = await correct(api, world.acme, "void", named(wrong))
    assert told["correction"].startswith("cor_")
    assert [(each["status"], each["code"]) for each in told["results"]] == [("accepted", None)]
    assert (await api.value(world.acme), await api.value(world.acme, "peak")) == (3, 3)
    again = {each.meter: (each.revision, each.quantity) for each in (await world.answers())[2:]}
    assert again == {"api_calls": (2, 3), "peak": (2, 3)}
    # Voided is voided: sent again neither the void nor the event does anything.
    told = await correct(api, world.acme, "void", named(wrong))
    assert (told["correction"], told["results"][0]["status"]) == (None, "duplicate")
    await api.send(world.acme, wrong)
    assert await api.value(world.acme) == 3
    assert len(await world.answers()) == 4


async def test_a_void_may_come_before_its_event(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = world.event()
    told = await correct(api, world.acme, "void", named(event), named(event))
    assert [(each["status"], each["code"]) for each in told["results"]] == [
        ("accepted", "not_counted_yet"),
        ("duplicate", None),
    ]
    await api.send(world.acme, event)
    await api.send(world.globex, event)
    assert await api.value(world.acme) == 0
    assert await api.value(world.globex) == 1, "another tenant's event of that name counts"


async def test_an_amended_event_counts_as_the_other_one(api: Api, world: World) -> None:
    await api.meter(world.platform)
    wrong, other = world.event(data={"calls": 70}), world.event(data={"calls": 1})
    await api.send(world.acme, wrong, other)
    right = world.event(data={"calls": "99999999999999999999.5"})
    exact = (
        json.dumps({"reason": "wrong unit", "events": [named(wrong) | {"event": right}]})
        .encode()
        .replace(b'"99999999999999999999.5"', b"99999999999999999999.5")
    )
    for status in ("accepted", "duplicate"):
        answer = await api.post("/api/v1/events/amend", world.acme, exact)
        assert answer.json()["results"][0]["status"] == status, answer.text
        await world.log.settle()
        assert str(await api.value(world.acme)) == "100000000000000000000.5"
    taken = [
        named(other) | {"event": event}
        for event in (
            right | {"data": {"calls": 2}},
            wrong,
            other,
            world.event(data={"calls": -1}),
            world.event(source="sluice:reservation"),
            world.event(type=VOIDED),
            world.event(tenantid=str(world.globex.id)),
        )
    ]
    codes = []
    for each in taken:
        told = await correct(api, world.acme, "amend", each)
        codes.append((told["correction"], told["results"][0]["code"]))
    assert codes == [
        (None, code)
        for code in (
            *("id_conflict", "id_voided", "id_taken", "negative_value", "reserved_source"),
            *("reserved_type", "wrong_tenant"),
        )
    ]
    assert str(await api.value(world.acme)) == "100000000000000000000.5"


async def test_who_corrected_what_why_is_kept_and_audited(api: Api, world: World) -> None:
    await api.meter(world.platform)
    events = [world.event() for _ in range(3)]
    await api.send(world.acme, *events)
    told = await correct(api, world.acme, "void", *map(named, events[:2]))
    await correct(api, world.acme, "amend", named(events[2]) | {"event": world.event()})
    listed = (await api.get("/api/v1/usage/corrections", world.acme)).json()["items"]
    assert [(each["kind"], each["events"]) for each in listed] == [("void", 2), ("amend", 1)]
    assert listed[0]["id"] == told["correction"]
    assert listed[0]["actor"].startswith("key_")
    assert (await api.get("/api/v1/usage/corrections", world.globex)).json()["items"] == []
    facts = [event.data for event in world.log.events(ConfigurationChanged)]
    audited = [fact for fact in facts if fact.action.startswith("usage.")]
    assert [(fact.action, fact.object_id) for fact in audited] == [
        ("usage.voided", listed[0]["id"]),
        ("usage.amended", listed[1]["id"]),
    ]
    assert audited[0].after == {"events": 2, "reason": "counted by mistake"}
    void = json.loads(world.log.topics[TOPIC][3].value or b"")
    assert void["data"]["correction"] == listed[0]["id"]


async def test_what_cannot_be_corrected_is_refused(api: Api, world: World) -> None:
    event = world.event()
    for body in (
        {"events": [named(event)]},
        {"reason": "", "events": [named(event)]},
        {"reason": "x", "events": []},
        {"reason": "x", "events": [named(event)] * 1_001},
        {"reason": "x", "events": [{"id": "a\x00", "source": "s"}]},
        {"reason": "x", "events": [named(event) | {"event": "x"}]},
    ):
        for kind in ("void", "amend"):
            answer = await api.post(f"/api/v1/events/{kind}", world.acme, body)
            assert answer.status_code == 422, (kind, body, answer.text[:200])
    assert (await api.post("/api/v1/events/amend", world.acme, b"{")).status_code == 400
    told = await correct(api, world.acme, "void", {"id": "x", "source": SOURCE})
    assert told["results"][0]["code"] == "reserved_source"
    refused = await api.send(world.acme, world.event(type=VOIDED))
    assert refused[0]["code"] == "reserved_type"
    assert world.log.topics[TOPIC] == []


async def test_without_kafka_a_correction_is_asked_for_again(api: Api, world: World) -> None:
    await api.meter(world.platform)
    event = world.event()
    await api.send(world.acme, event)
    world.usage_log.down = True
    await correct(api, world.acme, "void", named(event), status=503)
    world.usage_log.down = False
    assert await api.value(world.acme) == 1
    await correct(api, world.acme, "void", named(event))
    assert await api.value(world.acme) == 0


async def test_hostile_voids_on_the_topic(api: Api, world: World, database: TestDatabase) -> None:
    await api.meter(world.platform)
    event = world.event()
    await api.send(world.acme, event, world.event())
    for data in ({}, {"id": "x"}, {"id": 5, "source": "x"}, {"id": "", "source": "x"}):
        world.put(world.acme, world.event(type=VOIDED, data=data))
    world.put(world.globex, world.event(type=VOIDED, data=named(event)))
    world.put(world.acme, world.event(type=VOIDED, data=named(event)), mode="live")
    await world.log.settle()
    assert await letters(database) == ["invalid_void"] * 4
    assert await api.value(world.acme) == 2, "nobody else's void, nor one of the other mode"


async def test_what_was_counted_without_record_stays(
    api: Api, world: World, database: TestDatabase
) -> None:
    """Events counted by a version that kept nothing of them cannot be taken back exactly."""
    await api.meter(world.platform)
    event = world.event()
    await api.send(world.acme, event)
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute("update usage_event_id set gained = null")
    told = await correct(api, world.acme, "void", named(event))
    assert told["results"][0]["code"] == "counted_without_record"
    world.put(world.acme, world.event(type=VOIDED, data=named(event)))
    await world.log.settle()
    assert await letters(database) == ["counted_without_record"]
    assert await api.value(world.acme) == 1


async def test_a_minimum_is_not_made_of_the_values_that_happen_to_be_kept(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform, aggregation="min")
    at = format_time(floor_to_minute(utc_now()))
    small, large = (world.event(time=at, data={"calls": calls}) for calls in (1, 5))
    await api.send(world.acme, small, large)
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute("delete from usage_value where value = 1")
    told = await correct(api, world.acme, "void", named(large))
    assert told["results"][0]["code"] == "counted_without_record"
    world.put(world.acme, world.event(type=VOIDED, data=named(large)))
    await world.log.settle()
    assert await letters(database) == ["counted_without_record"]
    assert await api.value(world.acme) == 1
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select event_count from usage_minute") == 2


async def test_an_amended_event_of_a_minute_kept_in_part_does_not_count_twice(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    await api.meter(world.platform, key="least", aggregation="min")
    at = format_time(floor_to_minute(utc_now()))
    small, large = (world.event(time=at, data={"calls": calls}) for calls in (1, 5))
    await api.send(world.acme, small, large)
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute("delete from usage_value where value = 1")
    right = world.event(time=at, data={"calls": 4})
    told = await correct(api, world.acme, "amend", named(large) | {"event": right})
    assert [each["code"] for each in told["results"]] == ["counted_without_record"]
    assert (await api.value(world.acme), await api.value(world.acme, "least")) == (6, 1)


async def test_what_was_counted_under_a_former_hash_is_known(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    event, other = world.event(id=str(new_id())), world.event()
    await api.send(world.acme, event)
    async with database.admin() as admin:
        await admin.execute(
            "update metering.usage_event_id set id_hash = $1, gained = null",
            former_hash_of_id(event["source"], event["id"]),
        )
        await admin.execute("insert into metering.former_ids values (current_date)")
    told = await correct(api, world.acme, "void", named(event))
    assert told["results"][0]["code"] == "counted_without_record"
    amended = named(event) | {"event": world.event()}
    told = await correct(api, world.acme, "amend", amended)
    assert told["results"][0]["code"] == "counted_without_record"
    assert await api.value(world.acme) == 1
    await api.send(world.acme, other)
    taken = named(other) | {"event": event | {"data": {"calls": 7}}}
    told = await correct(api, world.acme, "amend", taken)
    assert told["results"][0]["code"] == "id_conflict"
    assert await api.value(world.acme) == 2


async def test_replay_of_corrections_changes_nothing(
    meters_of_all_kinds: World, api: Api, database: TestDatabase
) -> None:
    world = meters_of_all_kinds
    events = [world.event(data={"calls": number % 3, "region": "eu"}) for number in range(9)]
    await api.send(world.acme, *events)
    await correct(api, world.acme, "void", *map(named, events[::2]))
    await correct(
        api,
        world.acme,
        "amend",
        named(events[1]) | {"event": world.event(data={"calls": 8, "region": "us"})},
    )
    before = await checksums(database)
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before


async def test_kept_values_go_when_nothing_can_be_voided(api: Api, world: World) -> None:
    await api.meter(world.platform, aggregation="min")
    await api.send(world.acme, world.event(), world.event())
    async with world.database.tenant(world.acme.id, "test") as tx:
        await tx.execute(
            "update usage_value set minute = minute - interval '72 days' where id_hash = "
            "(select min(id_hash::text)::bytea from usage_value)"
        )
    await jobs.prune_usage_values(world.database)
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select count(*) from usage_value") == 1


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    voided=st.sets(st.integers(0, 19), max_size=12),
    order=st.permutations(range(20)),
    places=st.lists(st.integers(0, 60), min_size=24, max_size=24),
    cuts=st.sets(st.integers(1, 40), max_size=6),
)
async def test_any_order_of_events_and_voids_is_as_if_the_voided_never_came(
    meters_of_all_kinds: World,
    voided: set[int],
    order: list[int],
    places: list[int],
    cuts: set[int],
) -> None:
    world = meters_of_all_kinds
    start = floor_to_minute(utc_now()) - timedelta(hours=2)
    events = [
        world.event(
            id=f"v-{number}",
            time=format_time(start + timedelta(seconds=20 * (number % 7))),
            userid=f"u{number % 2}",
            data={"calls": f"{number % 4}.{number % 2}", "region": "eu" if number % 2 else "us"},
        )
        for number in range(20)
    ]
    voids = [world.event(type=VOIDED, data=named(events[number])) for number in sorted(voided)]
    left = [event for number, event in enumerate(events) if number not in voided]
    sequence = [events[number] for number in order]
    # Each void twice, anywhere, and some events again.
    for place, extra in zip(places, [*voids, *voids, *events[:4]], strict=False):
        sequence.insert(place % (len(sequence) + 1), extra)
    edges = [0, *sorted(cuts), len(sequence)]
    batches = [sequence[first:last] for first, last in pairwise(sorted(edges))]
    assert await _aggregates(world, batches) == await _aggregates(world, [left])


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
        uniques = await tx.fetch(
            "select series_id, minute, value_hash from usage_unique order by 1, 2, 3"
        )
        ranks = await tx.fetch(
            "select series_id, minute, value, event_count from usage_rank order by 1, 2, 3"
        )
        values = await tx.fetch(
            "select series_id, minute, id_hash, value from usage_value order by 1, 2, 3"
        )
    return [tuple(row) for row in (*minutes, *uniques, *ranks, *values)]
