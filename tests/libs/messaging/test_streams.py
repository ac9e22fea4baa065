"""Holes in streams are told when they are holes, and only then."""

from collections.abc import AsyncGenerator
from uuid import UUID

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from libs.clock import utc_now
from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging.interventions import Act, release_key
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, Sums, credit

EVENTS = TopicPartition("billing.events", 0)


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


def numbered(tenant_id: UUID, number: int, amount_minor: int = 1) -> Envelope[CreditGranted]:
    """A credit grant with its place in its stream."""
    return credit(tenant_id, amount_minor).model_copy(update={"stream_seq": number})


def gaps(topic: str) -> float:
    """Records that the check of streams has found missing."""
    return REGISTRY.get_sample_value("sluice_stream_gap_records_total", {"topic": topic}) or 0


async def free_key(ledger: Database, log: MemoryLog, tenant_id: UUID) -> None:
    assert await release_key(
        ledger, "ledger", EVENTS.topic, str(tenant_id), Act("cli:test", "mended")
    )
    await log.consumers(ledger)[0].drain()


@pytest.mark.parametrize("parks", [True, False])
async def test_an_event_put_aside_is_no_hole_in_its_stream(
    ledger: Database, log: MemoryLog, *, parks: bool
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit}, parks=parks)
    before = gaps(EVENTS.topic)
    events = [numbered(ACME, number) for number in range(1, 6)]
    sums.poisoned.add(events[1].id)
    for event in events[:4]:
        log.publish(event)
    await log.settle()
    if parks:
        sums.poisoned.clear()
        await free_key(ledger, log, ACME)
    log.publish(events[4])
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == (5 if parks else 4)
    assert gaps(EVENTS.topic) == before
    log.publish(numbered(ACME, 8))
    await log.settle()
    assert gaps(EVENTS.topic) == before + 2


async def test_what_compaction_removed_is_no_hole(ledger: Database, log: MemoryLog) -> None:
    log.add(ledger, {})
    before = gaps("tenants.directory")
    for version in (1, 5):
        snapshot = TenantSnapshot(
            version=version,
            slug="acme",
            name="Acme",
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=new_id(),
        )
        event = wrap(snapshot, tenant_id=ACME, mode=None, source="tenants", effective_at=utc_now())
        log.publish(event.model_copy(update={"stream_seq": version}))
    await log.settle()
    assert gaps("tenants.directory") == before
