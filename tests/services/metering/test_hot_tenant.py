"""A tenant whose usage is spread over partitions: its customers keep their place, and all counts once."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from aiokafka import TopicPartition

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.configuration import CapacityConfiguration
from libs.contracts.tenants import ConfigRecord
from libs.contracts.topics import PARTITIONS
from libs.messaging.fence import create_fences
from libs.messaging.records import Record
from metering.world import Api, World, publish_snapshot
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


async def test_two_workers_count_one_tenant_at_the_same_time(api: Api, world: World) -> None:
    """The same series, minutes and now and then ids, from two partitions at once."""
    await api.meter(world.platform)
    await api.meter(world.platform, key="storage", aggregation="time_weighted_sum")
    await api.meter(world.platform, key="p90", aggregation="percentile")
    now = floor_to_minute(utc_now()) - timedelta(hours=1)
    events = [
        world.event(
            time=format_time(now + timedelta(seconds=7 * number)), data={"calls": number % 7}
        )
        for number in range(120)
    ]
    # Every event lies on one partition, and each fifth on the other too.
    halves = [events[::2] + events[1::10], events[1::2] + events[::10]]

    async def work(partition: int) -> None:
        mine = halves[partition]
        for first in range(0, len(mine), 9):
            batch = [
                Record(
                    TOPIC,
                    partition,
                    first + offset,
                    utc_now(),
                    str(world.acme.id).encode(),
                    json.dumps(event | {"mode": "test"}).encode(),
                )
                for offset, event in enumerate(mine[first : first + 9])
            ]
            async with world.database.transaction() as tx:
                await intake.take(batch, tx)

    await asyncio.gather(work(0), work(1))
    assert await api.value(world.acme) == sum(number % 7 for number in range(120))
    span = {"from": format_time(now), "to": format_time(now + timedelta(minutes=14))}
    level = sum(number % 7 for number in range(120)) * 7
    assert await api.value(world.acme, "storage", **span) == pytest.approx(
        Decimal(level) / 3600, abs=Decimal("1e-12")
    )
    assert await api.value(world.acme, "p90") == 6


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
