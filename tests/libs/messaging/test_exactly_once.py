"""The core on real Postgres: one effect per event, whatever is delivered how often."""

from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.ledger import JournalEntryPosted, PostedLine
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.messaging.interventions import Act, release_key
from libs.messaging.outbox import emit
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

ACME, GLOBEX = new_id(), new_id()


def credit(tenant_id: UUID, amount_minor: int = 100) -> Envelope[CreditGranted]:
    """A credit grant of a tenant, as billing would send it."""
    fact = CreditGranted(
        grant_id=new_id(),
        customer_id=new_id(),
        billed_by="platform",
        amount_minor=amount_minor,
        currency="EUR",
    )
    return wrap(fact, tenant_id=tenant_id, mode="test", source="billing", effective_at=utc_now())


class Poison(Exception):  # noqa: N818
    """A handler's permanent failure."""


class Sums:
    """A handler that adds up amounts per tenant in a table and tells of each in the outbox."""

    def __init__(self) -> None:
        self.poisoned: set[UUID] = set()

    async def on_credit(self, event: Envelope[Any], tx: Tx) -> None:
        if event.id in self.poisoned:
            raise Poison("cannot be booked")
        await tx.execute(
            "insert into directory (tenant_id, version, slug, clock_offset_seconds, snapshot) "
            "values ($1, $2, 'x', 0, '{}') on conflict (tenant_id) do update "
            "set version = directory.version + excluded.version",
            tx.tenant_id,
            event.data.amount_minor,
        )
        line = PostedLine(account="a", side="debit", amount_minor=1, currency="EUR")
        entry = JournalEntryPosted(
            entry_id=new_id(),
            book="tenant",
            source_key=str(event.id),
            booked_at=utc_now(),
            postings=(line,),
        )
        emit(tx, entry, effective_at=event.effective_at)

    async def sum_of(self, database: Database, tenant_id: UUID) -> int:
        async with database.tenant(tenant_id, "test") as tx:
            return await tx.fetchval("select version from directory") or 0


@pytest.fixture
async def ledger(database: TestDatabase) -> Any:
    async with database.open("ledger") as opened:
        yield opened


async def test_an_event_delivered_twice_has_one_effect(ledger: Database, log: MemoryLog) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    event = credit(ACME)
    log.publish(event)
    log.publish(event)
    log.publish(credit(GLOBEX, 7))
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 100
    assert await sums.sum_of(ledger, GLOBEX) == 7
    assert len(log.events(JournalEntryPosted)) == 2


async def test_replay_from_zero_with_inboxes_kept_changes_nothing(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    for _ in range(20):
        log.publish(credit(ACME))
    await log.settle()
    await log.replay(clear_inboxes=False)
    assert await sums.sum_of(ledger, ACME) == 2000
    assert len(log.events(JournalEntryPosted)) == 20


async def test_the_outbox_numbers_each_stream_without_holes(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    for index in range(10):
        log.publish(credit(ACME if index % 2 else GLOBEX))
    await log.settle()
    for tenant in (ACME, GLOBEX):
        numbers = [e.stream_seq for e in log.events(JournalEntryPosted) if e.tenant_id == tenant]
        assert numbers == [1, 2, 3, 4, 5]


async def test_a_poison_event_parks_its_key_and_others_flow(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit}, parks=True)
    bad, later, other = credit(ACME, 1), credit(ACME, 2), credit(GLOBEX, 4)
    sums.poisoned.add(bad.id)
    for event in (bad, later, other):
        log.publish(event)
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 0
    assert await sums.sum_of(ledger, GLOBEX) == 4
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from parked_record") == 2

    sums.poisoned.clear()
    consumer = log.consumers(ledger)[0]
    assert await release_key(
        ledger, "ledger", "billing.events", str(ACME), Act("cli:test", "mended")
    )
    await consumer.drain()
    assert await sums.sum_of(ledger, ACME) == 3
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from parked_record") == 0
        assert await tx.fetchval("select count(*) from parked_key") == 0


async def test_a_poison_event_becomes_a_dead_letter_where_order_does_not_matter(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit}, parks=False)
    bad, good = credit(ACME, 1), credit(ACME, 2)
    sums.poisoned.add(bad.id)
    log.publish(bad)
    log.publish(good)
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 2
    async with ledger.maintenance() as tx:
        letter = await tx.fetchrow("select reason, value from dead_letter")
    assert letter is not None
    assert letter["reason"] == "Poison"
    assert str(bad.id).encode() in letter["value"]


async def test_five_permanent_failures_in_a_row_stop_the_consumer(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    consumer = log.add(ledger, {CreditGranted: sums.on_credit}, parks=False)[0]
    events = [credit(ACME) for _ in range(8)]
    sums.poisoned = {event.id for event in events}
    for event in events:
        log.publish(event)
    await log.settle()
    assert not consumer.check().ok
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from dead_letter") == 0
    async with ledger.transaction() as tx:
        assert await tx.fetchval("select count(*) from consumer_stop") == 1
        assert await tx.fetchval("select count(*) from inbox") == 0


@pytest.mark.parametrize(
    ("key", "value", "headers", "reason"),
    [
        (None, b"{}", (("type", b"CreditGranted"),), "bad_key"),
        (b"not-a-tenant", b"{}", (("type", b"CreditGranted"),), "bad_key"),
        (str(ACME).upper().encode(), b"{}", (("type", b"CreditGranted"),), "bad_key"),
        (str(ACME).encode(), None, (("type", b"CreditGranted"),), "no_value"),
        (str(ACME).encode(), b"{}", (), "no_type"),
        (str(ACME).encode(), b"{}", (("type", b"\xff\xfe"),), "no_type"),
        (str(ACME).encode(), b"\xff\x00", (("type", b"CreditGranted"),), "not_an_event"),
        (str(ACME).encode(), b"[" * 100_000, (("type", b"CreditGranted"),), "not_an_event"),
    ],
)
async def test_undecodable_bytes_are_buried_with_every_byte(
    ledger: Database, log: MemoryLog, key: bytes, value: bytes, headers: Any, reason: str
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    log.append("billing.events", key, value, headers)
    log.publish(credit(GLOBEX))
    await log.settle()
    assert await sums.sum_of(ledger, GLOBEX) == 100
    async with ledger.maintenance() as tx:
        letter = await tx.fetchrow("select reason, key, value from dead_letter")
    assert letter is not None
    assert (letter["reason"], letter["key"], letter["value"]) == (reason, key, value)


async def test_an_event_of_another_tenant_than_its_key_is_refused(
    ledger: Database, log: MemoryLog
) -> None:
    sums = Sums()
    log.add(ledger, {CreditGranted: sums.on_credit})
    event = credit(ACME)
    log.append(
        "billing.events",
        str(GLOBEX).encode(),
        event.model_dump_json().encode(),
        (("type", b"CreditGranted"),),
    )
    await log.settle()
    assert await sums.sum_of(ledger, ACME) == 0
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select reason from dead_letter") == "key_mismatch"


async def test_a_type_unknown_to_this_version_is_passed_over(
    ledger: Database, log: MemoryLog
) -> None:
    log.add(ledger, {})
    log.append("billing.events", str(ACME).encode(), b"{}", (("type", b"SomethingNew"),))
    await log.settle()
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select count(*) from dead_letter") == 0


async def test_a_rolled_back_transaction_sends_nothing(ledger: Database, log: MemoryLog) -> None:
    log.add(ledger, {})
    with pytest.raises(Poison):
        async with ledger.tenant(ACME, "test") as tx:
            emit(tx, credit(ACME).data)
            raise Poison
    await log.settle()
    assert log.events(CreditGranted) == []


async def test_the_directory_applies_only_a_higher_version(
    ledger: Database, log: MemoryLog
) -> None:
    log.add(ledger, {})
    for version, name in ((1, "first"), (3, "third"), (2, "second")):
        snapshot = TenantSnapshot(
            version=version,
            slug="acme",
            name=name,
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=new_id(),
        )
        log.publish(
            wrap(snapshot, tenant_id=ACME, mode=None, source="tenants", effective_at=utc_now())
        )
    await log.settle()
    async with ledger.transaction() as tx:
        found = await tx.fetchval("select find_tenant('slug', 'acme')")
    assert found["snapshot"]["name"] == "third"


async def test_a_query_with_wrong_arguments_is_a_permanent_failure(
    ledger: Database, log: MemoryLog
) -> None:
    async def broken(event: Envelope[Any], tx: Tx) -> None:
        await tx.execute("select $1::text", str(event.id), "one too many")

    log.add(ledger, {CreditGranted: broken}, parks=False)
    log.publish(credit(ACME))
    await log.settle()
    async with ledger.maintenance() as tx:
        assert await tx.fetchval("select reason from dead_letter") == "WrongArgumentsError"
