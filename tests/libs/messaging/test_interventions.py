"""What an operator does about parked records and stopped consumers: done once, and told."""

from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging import drain, interventions
from libs.messaging.interventions import Act, AnotherFirstError
from libs.messaging.parked import next_parked, unrelease
from libs.messaging.records import Record
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

TOPIC = "billing.events"
ACT = Act("cli:ada", "billing will send it anew")
NOT_THERE = Record(TOPIC, 0, 0, utc_now(), None, None, ())


class Handler:
    """Notes what it took; refuses what it is told to."""

    def __init__(self) -> None:
        self.refused: set[UUID] = set()
        self.taken: list[UUID] = []

    async def __call__(self, event: Envelope[Any], tx: Tx) -> None:
        assert tx.tenant_id == event.tenant_id
        if event.id in self.refused:
            raise ValueError("cannot be booked")
        self.taken.append(event.id)


@pytest.fixture
async def ledger(database: TestDatabase) -> Any:
    async with database.open("ledger") as opened:
        yield opened


def credit(tenant_id: UUID) -> Envelope[CreditGranted]:
    fact = CreditGranted(
        grant_id=new_id(),
        customer_id=new_id(),
        billed_by="platform",
        amount_minor=1,
        currency="EUR",
    )
    return wrap(fact, tenant_id=tenant_id, mode="test", source="billing", effective_at=utc_now())


async def parked(
    log: MemoryLog, handler: Handler, tenant: UUID, *, bad: int, of: int
) -> list[UUID]:
    """Events of a tenant, of which the first few are refused; their ids."""
    events = [credit(tenant) for _ in range(of)]
    handler.refused = {event.id for event in events[:bad]}
    for event in events:
        log.publish(event)
    await log.settle()
    assert handler.taken == []
    return [event.id for event in events]


async def keys(ledger: Database) -> list[tuple[str, int]]:
    async with ledger.transaction() as tx:
        return [(r["key"], r["records"]) for r in await tx.fetch("select * from parked_key")]


async def first_of(ledger: Database, tenant: UUID) -> Record | None:
    """The record that an operator is shown."""
    async with ledger.maintenance() as tx:
        queue = await next_parked(tx, "ledger", TOPIC, str(tenant), 1)
    return queue[0][1] if queue else None


async def discard(ledger: Database, tenant: UUID, shown: Record | None = None) -> Record | None:
    """Discard the record that was shown; by default the one that is first now."""
    shown = shown or await first_of(ledger, tenant) or NOT_THERE
    return await interventions.discard_first(ledger, "ledger", TOPIC, str(tenant), shown, ACT)


async def test_the_first_is_discarded_with_every_byte_and_the_others_are_applied(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant = Handler(), new_id()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=True)
    _, *good = await parked(log, handler, tenant, bad=1, of=3)
    record = await discard(ledger, tenant)
    assert record is not None
    await consumer.drain()
    await log.settle()
    assert handler.taken == good
    assert await keys(ledger) == []
    async with ledger.maintenance() as tx:
        (letter,) = await tx.fetch("select * from dead_letter")
        assert await tx.fetchval("select count(*) from parked_record") == 0
    first = log.topics[TOPIC][0]
    assert (letter["value"], letter["key"]) == (first.value, first.key)
    assert (letter["partition"], letter["record_offset"]) == (0, 0)
    assert (letter["reason"], letter["detail"]) == (
        "discarded",
        "cli:ada: billing will send it anew",
    )
    (told,) = log.events(ConfigurationChanged)
    assert (told.tenant_id, told.data.actor) == (tenant, "cli:ada")
    assert (told.data.action, told.data.object_id) == (
        "parked_record.discarded",
        "ledger billing.events[0] 0",
    )
    assert told.data.after == {"why": "billing will send it anew"}


async def test_the_only_one_that_waits_is_discarded_and_the_key_is_free(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant = Handler(), new_id()
    log.add(ledger, {CreditGranted: handler}, parks=True)
    await parked(log, handler, tenant, bad=1, of=1)
    assert await discard(ledger, tenant)
    assert await keys(ledger) == []
    later = credit(tenant)
    log.publish(later)
    await log.settle()
    assert handler.taken == [later.id]
    # Nothing is left to discard: nothing happens, and nothing is told.
    assert not await discard(ledger, tenant)
    assert not await interventions.release_key(ledger, "ledger", TOPIC, str(tenant), ACT)
    await log.settle()
    assert len(log.events(ConfigurationChanged)) == 1


async def test_what_is_produced_again_after_it_was_discarded_is_applied_once(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant = Handler(), new_id()
    log.add(ledger, {CreditGranted: handler}, parks=True)
    await parked(log, handler, tenant, bad=1, of=1)
    record = await discard(ledger, tenant)
    assert record is not None
    handler.refused.clear()
    for _ in range(2):
        log.append(TOPIC, record.key, record.value, record.headers)
    await log.settle()
    assert len(handler.taken) == 1


async def test_each_that_fails_again_is_discarded_by_itself(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant, other = Handler(), new_id(), new_id()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=True)
    first, second, good = await parked(log, handler, tenant, bad=2, of=3)
    assert await discard(ledger, tenant)
    await consumer.drain()
    assert await keys(ledger) == [(str(tenant), 2)]
    assert not await discard(ledger, other)
    assert await discard(ledger, tenant)
    await consumer.drain()
    assert handler.taken == [good]
    assert {first, second} == handler.refused


async def test_of_two_who_discard_the_record_they_were_shown_the_second_changes_nothing(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant = Handler(), new_id()
    log.add(ledger, {CreditGranted: handler}, parks=True)
    await parked(log, handler, tenant, bad=1, of=2)
    shown = await first_of(ledger, tenant)
    assert await discard(ledger, tenant, shown) == shown
    with pytest.raises(AnotherFirstError):
        await discard(ledger, tenant, shown)
    assert await keys(ledger) == [(str(tenant), 1)]
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from dead_letter") == 1
    await log.settle()
    assert len(log.events(ConfigurationChanged)) == 1


async def test_what_is_being_tried_is_not_discarded_meanwhile(
    ledger: Database, log: MemoryLog
) -> None:
    """The one under the fence ends first; whoever comes after finds the queue as it is then."""
    handler, tenant = Handler(), new_id()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=True)
    (only,) = await parked(log, handler, tenant, bad=1, of=1)
    handler.refused.clear()
    assert await interventions.release_key(ledger, "ledger", TOPIC, str(tenant), ACT)
    unlocked: list[int] = []

    async def looks_whether_it_could_be_discarded(event: Envelope[Any], tx: Tx) -> None:
        await handler(event, tx)
        free = await ledger.pool.fetch(
            "select from fence where consumer = 'ledger' and topic = $1 for update skip locked",
            TOPIC,
        )
        unlocked.append(len(free))

    consumer.applier.handlers = {CreditGranted: looks_whether_it_could_be_discarded}
    await consumer.drain()
    assert unlocked == [0]
    assert handler.taken == [only]
    assert not await discard(ledger, tenant)
    async with ledger.maintenance() as tx:
        assert await tx.fetch("select from dead_letter") == []
        assert len(await next_parked(tx, "ledger", TOPIC, str(tenant), 1)) == 0


async def test_who_is_released_while_the_one_before_fails_is_tried_once_more(
    ledger: Database, log: MemoryLog
) -> None:
    handler, tenant = Handler(), new_id()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=True)
    events = await parked(log, handler, tenant, bad=1, of=2)
    assert await interventions.release_key(ledger, "ledger", TOPIC, str(tenant), ACT)

    async def mended_and_released_meanwhile(event: Envelope[Any], tx: Tx) -> None:
        if handler.refused:
            assert await interventions.release_key(ledger, "ledger", TOPIC, str(tenant), ACT)
            handler.refused.clear()
            raise ValueError("cannot be booked yet")
        await handler(event, tx)

    consumer.applier.handlers = {CreditGranted: mended_and_released_meanwhile}
    for _ in range(2):
        await consumer.drain()
    assert handler.taken == events
    assert await keys(ledger) == []


async def test_the_others_are_tried_where_the_one_that_failed_again_is_discarded_at_once(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator waits for the fence, and has it before the consumer notes the failure."""
    handler, tenant = Handler(), new_id()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=True)
    _, good = await parked(log, handler, tenant, bad=1, of=2)
    assert await interventions.release_key(ledger, "ledger", TOPIC, str(tenant), ACT)

    async def after_the_operator(*arguments: Any) -> None:
        assert await discard(ledger, tenant)
        await unrelease(*arguments)

    monkeypatch.setattr(drain, "unrelease", after_the_operator)
    for _ in range(2):
        await consumer.drain()
    assert handler.taken == [good]
    assert await keys(ledger) == []


async def test_a_stop_is_lifted_once_and_told_to_the_platform(
    ledger: Database, log: MemoryLog
) -> None:
    handler = Handler()
    (consumer, *_) = log.add(ledger, {CreditGranted: handler}, parks=False)
    events = [credit(new_id()) for _ in range(5)]
    handler.refused = {event.id for event in events}
    for event in events:
        log.publish(event)
    await log.settle()
    assert not consumer.check().ok
    assert await interventions.lift_stop(ledger, "ledger", ACT)
    assert not await interventions.lift_stop(ledger, "ledger", ACT)
    await consumer._load_stop()
    handler.refused.clear()
    await log.settle()
    assert len(handler.taken) == 5
    (told,) = log.events(ConfigurationChanged)
    assert (told.tenant_id, told.data.action) == (PLATFORM_TENANT_ID, "consumer_stop.lifted")
    assert told.data.object_id == "ledger"
