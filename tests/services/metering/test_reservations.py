"""Reservations: a hard limit is never overrun, whatever happens at the same time."""

import asyncio
import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.clock import floor_to_minute, utc_now
from libs.ids import new_id, parse_public_id
from libs.testing.databases import TestDatabase
from metering.test_limits import subscribe
from metering.world import Api, Party, World, checksums
from services.metering import jobs, reservations
from services.metering.ingest import stamped_anew
from services.metering.reserved_events import SOURCE, event_id
from services.metering.usage_log import TOPIC
from services.metering.voiding import VOIDED

LIMIT = 10


@pytest.fixture
async def limited(api: Api, world: World) -> Party:
    """Acme on a plan with a hard limit of 10 calls."""
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - timedelta(days=3), now + timedelta(days=27))
    await subscribe(world, world.acme, "hard", str(LIMIT), period)
    return world.acme


async def reserve(api: Api, party: Party, amount: str = "1", **more: Any) -> Any:
    body = {"meter": "api_calls", "amount": amount} | more
    return await api.post("/api/v1/reservations", party, body)


async def end(api: Api, party: Party, held: str, how: str, **body: Any) -> Any:
    return await api.post(f"/api/v1/reservations/{held}/{how}", party, body or {})


async def standing(api: Api, party: Party) -> tuple[Decimal, Decimal]:
    """Used and reserved."""
    found = (await api.get("/api/v1/limits/check", party, meter="api_calls")).json()
    return Decimal(found["used"]), Decimal(found["reserved"])


async def test_what_is_held_is_nobody_else_s_until_it_is_settled_or_released(
    api: Api, world: World, limited: Party
) -> None:
    # Given seven of ten held,
    held = (await reserve(api, limited, "7")).json()
    assert (held["state"], held["amount"], held["check"]["remaining"]) == ("held", "7", "10")
    # when four more are wanted, they are refused with what is left;
    refused = await reserve(api, limited, "4")
    assert refused.status_code == 409
    assert refused.json()["code"] == "limit_reached"
    assert refused.json()["check"]["remaining"] == "3"
    assert (await api.get("/api/v1/limits/check", limited, meter="api_calls", amount="4")).json()[
        "allowed"
    ] is False
    # when two are released, nothing is left of them,
    other = (await reserve(api, limited, "2")).json()
    assert (await end(api, limited, other["id"], "release")).json()["state"] == "released"
    assert (await end(api, limited, other["id"], "release")).status_code == 200
    # and when five of the seven were really used,
    settled = (await end(api, limited, held["id"], "settle", amount="5")).json()
    assert (settled["state"], settled["settled_amount"]) == ("settled", "5")
    assert await standing(api, limited) == (0, 5)
    await world.log.settle()
    # then they are usage, counted once however often it is told.
    assert await standing(api, limited) == (5, 0)
    again = await end(api, limited, held["id"], "settle", amount="5")
    assert again.status_code == 200
    await world.log.settle()
    assert await standing(api, limited) == (5, 0)
    assert await api.value(limited, user="ann") == 0
    assert (await end(api, limited, held["id"], "settle", amount="6")).status_code == 409
    assert (await end(api, limited, held["id"], "release")).json()["code"] == "reservation_settled"


async def test_many_at_once_get_exactly_what_there_is(api: Api, limited: Party) -> None:
    answers = await asyncio.gather(*(reserve(api, limited) for _ in range(40)))
    assert [answer.status_code for answer in answers].count(201) == LIMIT
    assert {answer.status_code for answer in answers} == {201, 409}
    assert await standing(api, limited) == (0, LIMIT)


@pytest.mark.parametrize("seed", range(4))
async def test_no_order_of_events_overruns_the_limit(
    api: Api, world: World, limited: Party, seed: int
) -> None:
    """Holds, settlements, releases, expiry, counting and outages in any order."""
    rng, held = random.Random(seed), []
    for _ in range(120):
        match rng.choice(["hold", "hold", "settle", "release", "count", "job", "kafka"]):
            case "hold":
                answer = await reserve(api, limited, str(rng.randint(1, 3)))
                held += [answer.json()] if answer.status_code == 201 else []
            case "settle" if held:
                mine = held.pop(rng.randrange(len(held)))
                amount = str(rng.randint(0, int(mine["amount"])))
                answers = await asyncio.gather(
                    *(end(api, limited, mine["id"], "settle", amount=amount) for _ in range(2))
                )
                # Zero is a release; settling that again finds it ended.
                assert {each.status_code for each in answers} <= (
                    {200, 409} if amount == "0" else {200}
                )
            case "release" if held:
                mine = held.pop(rng.randrange(len(held)))
                assert (await end(api, limited, mine["id"], "release")).status_code == 200
            case "count":
                await world.log.settle()
            case "job":
                await jobs.end_reservations(world.database, world.usage_log)  # type: ignore[arg-type]
            case "kafka":
                world.usage_log.down = not world.usage_log.down
        used, reserved = await standing(api, limited)
        assert used + reserved <= LIMIT
    world.usage_log.down = False
    for mine in held:
        assert (await end(api, limited, mine["id"], "release")).status_code == 200


async def test_kafka_away_loses_nothing_that_was_settled(
    api: Api, world: World, limited: Party, database: TestDatabase
) -> None:
    held = (await reserve(api, limited, "4")).json()
    world.usage_log.down = True
    assert (await end(api, limited, held["id"], "settle")).json()["state"] == "settled"
    await world.log.settle()
    assert await standing(api, limited) == (0, 4)
    world.usage_log.down = False
    async with database.admin() as admin:
        await admin.execute("update metering.reservation set ended_at = now() - interval '1 min'")
    for _ in range(2):
        await jobs.end_reservations(world.database, world.usage_log)  # type: ignore[arg-type]
        await world.log.settle()
    assert await standing(api, limited) == (4, 0)


async def test_what_was_settled_hours_ago_still_counts(
    api: Api, world: World, limited: Party, database: TestDatabase
) -> None:
    """The consumer refuses stamps that are old: what waited for Kafka is stamped anew."""
    held = (await reserve(api, limited, "4")).json()
    world.usage_log.down = True
    await end(api, limited, held["id"], "settle")
    world.usage_log.down = False
    async with database.admin() as admin:
        (events,) = [row[0] for row in await admin.fetch("select events from metering.reservation")]
        old = [stamped_anew(each, utc_now() - timedelta(hours=3)) for each in events]
        await admin.execute(
            "update metering.reservation set ended_at = now() - interval '3 h', events = $1", old
        )
    await jobs.end_reservations(world.database, world.usage_log)  # type: ignore[arg-type]
    await world.log.settle()
    assert await standing(api, limited) == (4, 0)


async def test_a_meter_of_one_s_own_does_not_stand_before_the_platform_s(
    api: Api, world: World, limited: Party
) -> None:
    await api.meter(limited, event_type="never")
    await api.send(limited, world.event(data={"calls": 9}))
    answer = await api.get("/api/v1/limits/check", limited, meter="api_calls", amount="2")
    assert (answer.json()["used"], answer.json()["allowed"]) == ("9", False)
    assert (await reserve(api, limited, "2")).status_code == 409
    held = (await reserve(api, limited, "1")).json()
    await end(api, limited, held["id"], "settle")
    await world.log.settle()
    assert await standing(api, limited) == (10, 0)


async def test_the_smallest_amounts_are_settled_too(api: Api, world: World, limited: Party) -> None:
    held = (await reserve(api, limited, "0.000000000000005")).json()
    assert (await end(api, limited, held["id"], "settle")).status_code == 200
    await world.log.settle()
    assert await standing(api, limited) == (Decimal("0.000000000000005"), 0)


async def test_a_hold_that_nobody_ends_expires(
    api: Api, world: World, limited: Party, database: TestDatabase
) -> None:
    held = (await reserve(api, limited, "10", expires_in_seconds=60)).json()
    async with database.admin() as admin:
        await admin.execute("update metering.reservation set expires_at = now() - interval '5 s'")
    # It weighs no more at once, and says so as soon as the job has seen it.
    assert (await reserve(api, limited, "10")).status_code == 201
    late = await end(api, limited, held["id"], "settle")
    assert (late.status_code, late.json()["code"]) == (409, "reservation_expired")
    await jobs.end_reservations(world.database, world.usage_log)  # type: ignore[arg-type]
    assert (await api.get(f"/api/v1/reservations/{held['id']}", limited)).json()[
        "state"
    ] == "expired"


async def test_counts_groups_filters_and_customers(api: Api, world: World) -> None:
    acme = world.acme
    await api.meter(
        acme,
        key="jobs",
        event_type="job",
        aggregation="count",
        value_path=None,
        group_by=["size"],
        filters={"kind": ["paid"]},
    )
    wish = {"meter": "jobs", "customer": "shop-7", "user": "ann"}
    held = (await reserve(api, acme, "3", **wish)).json()
    assert (held["check"]["limit"], held["check"]["allowed"]) == (None, True)
    odd = await end(api, acme, held["id"], "settle", data={"size": "s", "kind": "free"})
    assert (odd.status_code, odd.json()["code"]) == (422, "filtered_out")
    assert (await end(api, acme, held["id"], "settle", amount="1.5")).status_code == 422
    assert (await end(api, acme, held["id"], "settle", amount="4")).status_code == 422
    data = {"size": "s", "kind": "paid"}
    assert (await end(api, acme, held["id"], "settle", amount="2", data=data)).status_code == 200
    await world.log.settle()
    (row,) = await api.rows(acme, "jobs", group_by="size", customer="shop-7", user="ann")
    assert (row["value"], row["group"]) == ("2", {"size": "s"})
    assert (await reserve(api, acme, "1.5", **wish)).status_code == 422
    assert (await reserve(api, acme, "0", **wish)).status_code == 422
    await api.meter(acme, key="peak", aggregation="max")
    refused = await reserve(api, acme, "1", meter="peak")
    assert refused.json()["code"] == "not_reservable"


async def test_the_same_key_holds_once_and_others_see_nothing(
    api: Api, world: World, limited: Party
) -> None:
    body = {"meter": "api_calls", "amount": "6"}
    twins = [
        await api.post("/api/v1/reservations", limited, body, Idempotency_Key="k-1")
        for _ in range(2)
    ]
    assert twins[0].json() == twins[1].json()
    assert await standing(api, limited) == (0, 6)
    held = twins[0].json()["id"]
    for how in ("settle", "release"):
        assert (await end(api, world.globex, held, how)).status_code == 404
        assert (await end(api, limited, f"rsv_{new_id()}", how)).status_code == 404
    assert (await api.get(f"/api/v1/reservations/{held}", world.globex)).status_code == 404
    # And nobody settles by an event that only looks like one.
    forged = world.event(source=SOURCE, id=f"{held.removeprefix('rsv_')}/0")
    (verdict,) = await api.send(limited, forged)
    assert (verdict["status"], verdict["code"]) == ("rejected", "reserved_source")


async def test_several_checks_at_once(api: Api, world: World, limited: Party) -> None:
    await reserve(api, limited, "8")
    checks = [
        {"meter": "api_calls", "amount": "2"},
        {"meter": "api_calls", "amount": "3"},
        {"meter": "api_calls", "customer": "shop-7"},
    ]
    answer = await api.post("/api/v1/limits/check", limited, {"checks": checks})
    results = answer.json()["results"]
    assert [each["allowed"] for each in results] == [True, False, True]
    assert [each["reserved"] for each in results] == ["8", "8", "0"]
    assert (await api.post("/api/v1/limits/check", limited, {"checks": []})).status_code == 422
    unknown = {"checks": [{"meter": "nothing"}]}
    assert (await api.post("/api/v1/limits/check", limited, unknown)).status_code == 404
    assert world.globex.id != limited.id


async def test_replay_leaves_reservations_as_they_were(
    api: Api, world: World, limited: Party, database: TestDatabase
) -> None:
    held = (await reserve(api, limited, "4")).json()
    await end(api, limited, held["id"], "settle", amount="3")
    await world.log.settle()
    before = await checksums(database)
    await world.log.replay(clear_inboxes=True)
    assert await checksums(database) == before
    assert await standing(api, limited) == (3, 0)


async def test_what_was_voided_before_it_came_weighs_on_no_limit(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform, aggregation="count", value_path=None)
    held = (await reserve(api, world.acme, "3")).json()
    name = {"source": SOURCE, "id": event_id(parse_public_id("reservation", held["id"]), 1)}
    world.put(world.acme, world.event(type=VOIDED, data=name))
    await world.log.settle()
    assert (await end(api, world.acme, held["id"], "settle")).status_code == 200
    assert await standing(api, world.acme) == (0, 3)
    (void, *events) = world.log.topics[TOPIC]
    # The voided one comes twice, before the last of the others.
    world.log.topics[TOPIC] = [void]
    for record in (events[0], events[1], events[1]):
        world.log.append(TOPIC, record.key, record.value)
    await world.log.settle()
    assert await standing(api, world.acme) == (1, 1)
    world.log.append(TOPIC, events[2].key, events[2].value)
    await world.log.settle()
    assert await standing(api, world.acme) == (2, 0)
    before = await checksums(database)
    await world.log.replay(clear_inboxes=True)
    assert await checksums(database) == before


async def test_numbers_in_what_was_used_stay_as_written(api: Api, world: World) -> None:
    await api.meter(world.platform, group_by=["rate"])
    held = (await reserve(api, world.acme, "3")).json()
    path = f"/api/v1/reservations/{held['id']}/settle"
    told = {"Content_Type": "application/json"}
    for body in ('{"data": {"rate": 0.1}}'.encode("utf-16"), b'{"data": {"rate": NaN}}'):
        answer = await api.post(path, world.acme, body, **told)
        assert 400 <= answer.status_code < 500, answer.text
    exact = b'{"data": {"rate": 0.10000000000000000001}}'
    answer = await api.post(path, world.acme, exact, **told)
    assert answer.status_code == 200, answer.text
    await world.log.settle()
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select group_values from usage_series") == [
            "0.10000000000000000001"
        ]


async def test_a_settlement_publishes_only_so_many_bytes(api: Api, world: World) -> None:
    """A count repeats its `data` in each event: what Kafka does not confirm costs all their producer."""
    # Given a thousand held of a meter that counts,
    await api.meter(world.platform, aggregation="count", value_path=None)
    held = (await reserve(api, world.acme, "1000")).json()
    # when they are settled with data that would make sixty megabytes of it,
    refused = await end(api, world.acme, held["id"], "settle", data={"text": "x" * 60_000})
    # then nothing is published, and the reservation is held still,
    assert (refused.status_code, refused.json()["code"]) == (413, "settlement_too_large")
    assert world.usage_log.published == []
    assert await standing(api, world.acme) == (0, 1000)
    # and with less data it is settled.
    assert (await end(api, world.acme, held["id"], "settle")).status_code == 200
    await world.log.settle()
    assert await standing(api, world.acme) == (1000, 0)


async def test_what_was_settled_in_many_bytes_is_published_in_pages(
    api: Api, world: World, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Former versions kept settlements of any size."""
    # Given settlements that wait for Kafka, larger than one may be now,
    await api.meter(world.platform, aggregation="count", value_path=None)
    world.usage_log.down = True
    for _ in range(2):
        held = (await reserve(api, world.acme, "9")).json()
        await end(api, world.acme, held["id"], "settle", data={"text": "x" * 1_000})
    async with database.admin() as admin:
        await admin.execute("update metering.reservation set ended_at = now() - interval '1 min'")
    world.usage_log.down = False
    monkeypatch.setattr(reservations, "SETTLED_BYTES_MAX", 4_000)
    # when Kafka is back,
    await jobs.end_reservations(world.database, world.usage_log)  # type: ignore[arg-type]
    await world.log.settle()
    # then all is counted, and no page was larger than a settlement may be.
    assert await standing(api, world.acme) == (18, 0)
    pages = [values for _, _, values in world.usage_log.published]
    assert len(pages) > 2
    assert max(sum(map(len, page)) for page in pages) <= 4_000
