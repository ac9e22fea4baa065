"""Lanes: several members of a consumer group in one process, each with partitions of its own."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from deploy.local.scratch import RunningKafka
from libs.contracts.billing import CreditGranted
from libs.contracts.topics import PARTITIONS
from libs.directory.consume import consumers_of
from libs.ids import new_id
from libs.messaging.broker import Runtime
from libs.messaging.consume import Consumer
from libs.messaging.create_topics import create_topics
from libs.messaging.partitioning import partition_of
from libs.observability.health import Health
from libs.observability.metrics import CONSUMER_LAG_RECORDS
from libs.testing.databases import TestDatabase
from tests.libs.messaging.test_on_kafka import running, until
from tests.libs.messaging.test_two_workers import (
    Booked,
    grant_rounds,
    partitions_of,
    replica,
    until_equal,
)

ROUNDS = 8


@asynccontextmanager
async def with_lanes(
    database: TestDatabase, kafka: str, booked: Booked, lanes: int
) -> AsyncGenerator[tuple[list[Consumer], Health], None]:
    """A worker with so many lanes; only they, without the directory's consumer."""
    opened, health = await database.open_unmanaged("ledger"), Health()
    consumers = consumers_of(
        opened, kafka, {CreditGranted: booked.as_seen_by("lanes")}, parks=True, lanes=lanes
    )[:lanes]
    runtime = Runtime(opened, kafka, health)
    runtime.add_consumers(consumers)
    async with runtime.running():
        yield consumers, health


def shares(lanes: Collection[Consumer]) -> list[int]:
    """How many partitions of a topic each has."""
    return [len(partitions_of(lane)) for lane in lanes]


@pytest.mark.kafka
async def test_lanes_share_the_partitions_also_with_a_worker_that_has_none(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = kafka_server.bootstrap
    await create_topics(kafka)
    # Whoever reads some partitions reads some of these tenants.
    by_partition: dict[int, UUID] = {}
    while len(by_partition) < PARTITIONS:
        tenant = new_id()
        by_partition[partition_of(tenant)] = tenant
    booked, tenants = Booked(), list(by_partition.values())
    async with (
        running(database, "billing", kafka, {}) as (billing, _),
        with_lanes(database, kafka, booked, 2) as (lanes, health),
    ):
        await until(lambda: shares(lanes) == [6, 6])
        await grant_rounds(billing, tenants, range(ROUNDS // 2))
        await until_equal(database)
        for lane in lanes:
            by_topic: dict[str, set[int]] = defaultdict(set)
            for place in lane.places.positions:
                by_topic[place.topic].add(place.partition)
            assert len(by_topic) > 1
            assert all(numbers == partitions_of(lane) for numbers in by_topic.values())
        checks = await health.run()
        assert {checks["consumer ledger"].ok, checks["consumer ledger lane 1"].ok} == {True}

        async with replica(database, kafka, booked, "of before", monkeypatch) as other:
            await until(lambda: [*shares(lanes), len(other.partitions)] == [4, 4, 4])
            held = [partitions_of(lanes[0]), partitions_of(lanes[1]), other.partitions]
            assert set().union(*held) == set(range(12))
            await grant_rounds(billing, tenants, range(ROUNDS // 2, ROUNDS))
            await until_equal(database)
            assert booked.handled_by["of before"]
            for tenant in tenants:
                assert await booked.sums.sum_of(other.database, tenant) == 2**ROUNDS - 1


async def test_of_more_lanes_than_partitions_some_may_go_without(database: TestDatabase) -> None:
    async with database.open("ledger") as ledger:
        first, second, _ = consumers_of(ledger, "none", {}, parks=True, lanes=2)
        assert [first.check().ok, second.check().ok] == [False, False]
        for lane in (first, second):
            lane.places.assigned = set()
        assert [first.check().ok, second.check().ok] == [False, True]


class TwelvePartitions:
    """A cluster whose topics have twelve partitions each."""

    def partitions_for_topic(self, _topic: str) -> set[int]:
        """Their numbers."""
        return set(range(12))


@pytest.mark.parametrize("slots", [1, 6, 7, 11, 12])
async def test_no_process_goes_without_partitions_because_others_have_two_lanes(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    members = {}
    async with database.open("ledger") as ledger:
        for slot in range(slots):
            monkeypatch.setenv("SLUICE_SLOT", str(slot))
            # One process is of the version before and has one lane.
            lanes = 1 if slot == slots // 2 else 2
            for lane in consumers_of(ledger, "none", {}, parks=True, lanes=lanes)[:lanes]:
                # As Kafka names members that have a name of their own.
                members[f"{lane.member}-{new_id()}"] = slot
    metadata = RangePartitionAssignor.metadata(["billing.events"])
    assigned = RangePartitionAssignor.assign(
        TwelvePartitions(),
        dict.fromkeys(members, metadata),
    )
    shared = [
        (members[member], place.partition)
        for member, given in assigned.items()
        for place in given.partitions()
    ]
    assert {slot for slot, _ in shared} == set(range(slots))
    assert sorted(partition for _, partition in shared) == list(range(12))


class TenRecordsEach:
    """A Kafka in which each partition has ten records."""

    async def end_offsets(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where each log ends."""
        return dict.fromkeys(places, 10)


async def test_the_lags_of_lanes_are_added_up(database: TestDatabase) -> None:
    shown = CONSUMER_LAG_RECORDS.labels(topic="billing.events")
    async with database.open("ledger") as ledger:
        lanes = consumers_of(ledger, "none", {}, parks=True, lanes=2)[:2]
        before = shown._value.get()
        for number, (lane, position) in enumerate(zip(lanes, (4, 9), strict=True)):
            lane.places.client = TenRecordsEach()
            lane.places.positions[TopicPartition("billing.events", number)] = position
            await lane._measure_lag(0.0)
        assert shown._value.get() - before == 7
        lanes[0].places.positions.clear()
        await lanes[0]._measure_lag(0.0)
        assert shown._value.get() - before == 1
