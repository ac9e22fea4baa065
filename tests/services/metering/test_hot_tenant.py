"""A tenant whose usage is spread over partitions: its customers keep their place, and all counts once."""

import asyncio
import json
import random
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.configuration import CapacityConfiguration
from libs.contracts.metering import Aggregation
from libs.contracts.tenants import ConfigRecord
from libs.contracts.topics import PARTITIONS
from libs.messaging.fence import create_fences
from libs.messaging.records import Record
from metering.world import Api, Party, World, publish_snapshot
from services.metering import intake
from services.metering.progress import Progress
from services.metering.usage_log import TOPIC, place_of, usage_partition

DAY = timedelta(days=1)


async def spread_acme(world: World, partitions: int) -> None:
    values = {"usage_partitions": partitions}
    config = (ConfigRecord(namespace="capacity", version=1, values=values),)
    snapshot = world.acme.snapshot.model_copy(update={"version": 2, "config": config})
    publish_snapshot(world.log, world.acme.id, snapshot)
    await world.log.settle()


async def test_customers_keep_their_place(api: Api, world: World) -> None:
    await api.meter(world.platform)
    await spread_acme(world, 3)
    events = [world.event(subject=f"shop-{number % 12}") for number in range(60)]
    await api.send(world.acme, *events[:30], world.event(subject=None))
    await api.send(world.acme, *events[20:])
    await api.send(world.globex, *events[:9])
    assert await api.value(world.acme) == 61
    places: dict[str | None, set[int]] = {}
    for tenant_id, place, values in world.usage_log.published:
        assert place == 0 or tenant_id == world.acme.id
        if tenant_id == world.acme.id:
            for value in values:
                places.setdefault(json.loads(value).get("subject"), set()).add(place)
    assert all(len(found) == 1 for found in places.values()), "the same for each of its events"
    assert set().union(*places.values()) == {0, 1, 2}


def test_places_lie_side_by_side() -> None:
    tenant = UUID("0192f0c4-0000-7000-8000-0000000000aa")
    found = [usage_partition(tenant, place) for place in range(PARTITIONS)]
    assert sorted(found) == list(range(PARTITIONS))
    assert found[0] == usage_partition(tenant)
    assert {place_of(f"c{number}", 4) for number in range(100)} == {0, 1, 2, 3}
    assert place_of(None, 1) == place_of("\ud800", 1) == 0
    most = CapacityConfiguration.model_json_schema()["properties"]["usage_partitions"]["maximum"]
    assert most == PARTITIONS


def on_partition(party: Party, partition: int, events: list[Any]) -> list[Record]:
    """Events as a worker gets them."""
    return [
        Record(
            TOPIC,
            partition,
            offset,
            utc_now(),
            str(party.id).encode(),
            json.dumps(event | {"mode": "test"}).encode(),
        )
        for offset, event in enumerate(events)
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_any_split_over_workers_counts_what_one_worker_counts(
    api: Api, world: World, seed: int
) -> None:
    """The same series, minutes and now and then ids, from several partitions at once."""
    luck = random.Random(seed)
    for aggregation in get_args(Aggregation):
        path = None if aggregation == "count" else "calls"
        meter = {"key": aggregation, "aggregation": aggregation, "value_path": path}
        await api.meter(world.platform, **meter)
    now = floor_to_minute(utc_now()) - timedelta(hours=1)
    events = [
        world.event(
            time=format_time(now + timedelta(seconds=7 * number)), data={"calls": number % 7}
        )
        for number in range(120)
    ]
    # Every event lies with one worker at least, and each tenth with another one too.
    workers = luck.randint(2, 4)
    lots: list[list[Any]] = [[] for _ in range(workers)]
    for event in luck.sample(events, len(events)) + luck.sample(events, len(events) // 10):
        luck.choice(lots).append(event)

    async def work(party: Party, partition: int, mine: list[Any]) -> None:
        records = on_partition(party, partition, mine)
        while records:
            size = luck.randint(1, 20)
            async with world.database.transaction() as tx:
                await intake.take(records[:size], tx)
            del records[:size]

    await asyncio.gather(*(work(world.acme, place, mine) for place, mine in enumerate(lots)))
    await work(world.globex, 0, events)
    span = {"from": format_time(now), "to": format_time(now + timedelta(minutes=15))}
    for aggregation in get_args(Aggregation):
        split, whole = [
            await api.value(party, aggregation, **span) for party in (world.acme, world.globex)
        ]
        assert split == whole, aggregation
    assert await api.value(world.acme, "sum") == sum(number % 7 for number in range(120))


async def test_a_period_waits_for_every_partition(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await world.close(world.acme, now - DAY, now, "api_calls")
    counted = len(world.log.topics[TOPIC])

    async def end_offsets() -> dict[int, int]:
        return {0: counted, 5: 7}

    monkeypatch.setattr(world.usage_log, "end_offsets", end_offsets)
    assert await world.answers() == []
    async with world.database.transaction() as tx:
        await create_fences(tx, "metering", {TopicPartition(TOPIC, 5): 6})
    assert await world.answers() == [], "one record of the other partition is not counted"
    async with world.database.transaction() as tx:
        await tx.execute(
            "update fence set next_offset = 7 where topic = $1 and partition = 5", TOPIC
        )
    assert len(await world.answers()) == 1


def test_how_far_a_spread_tenant_is_counted() -> None:
    progress, now = Progress(), utc_now()
    tenant = UUID("0192f0c4-0000-7000-8000-0000000000aa")
    for partition in range(PARTITIONS - 1):
        progress._caught_up_at[partition] = now - timedelta(seconds=partition)
    assert progress.as_of(tenant, now, 2) is None, "of one partition nothing is known"
    progress._caught_up_at[PARTITIONS - 1] = now
    assert progress.as_of(tenant, now + DAY, 2) == now - timedelta(seconds=PARTITIONS - 2)
    assert progress.as_of(tenant, now + DAY) == now + DAY
