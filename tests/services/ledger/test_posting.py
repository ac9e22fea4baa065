"""Many facts in one call: whose they are, what they cause, and that one bad fact spoils no other."""

import asyncio
import random

import pytest

from ledger.facts import START, Tenant, assert_sound, book, net_balances, snapshot, transfer
from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Database
from libs.ids import new_id
from libs.messaging.apply import Applier
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger.handlers import HANDLERS


@pytest.mark.usefixtures("ledger")
async def test_facts_of_many_tenants_are_booked_in_one_call(
    log: MemoryLog, database: TestDatabase
) -> None:
    tenants = [Tenant() for _ in range(5)]
    events = [tenant.payment(100 + at) for at in range(20) for tenant in tenants]
    for event in events:
        log.publish(event)
    await log.settle()
    told = log.events(JournalEntryPosted)
    caused = {each.causation_id: each for each in told}
    assert len(told) == len(caused) == len(events)
    for event in events:
        each = caused[event.id]
        assert (each.tenant_id, each.correlation_id, each.effective_at) == (
            event.tenant_id,
            event.correlation_id,
            event.effective_at,
        )
    for tenant in tenants:
        assert (await net_balances(database, tenant))["asset:receivable EUR"] == -2190
    async with database.admin() as admin:
        causes = await admin.fetch("select distinct xmin::text from ledger.journal_entry")
    assert len(causes) == 1, "one transaction"
    await assert_sound(database)


@pytest.mark.usefixtures("ledger")
async def test_one_bad_fact_is_put_aside_and_the_rest_is_booked_once(
    log: MemoryLog, database: TestDatabase
) -> None:
    tenants = [Tenant() for _ in range(8)]
    acme = tenants[3]
    first = acme.payment(100)
    contradicting = acme.event(first.data.model_copy(update={"amount_minor": 101}))
    same = acme.event(first.data)
    events = [tenant.payment(1000 + at) for at in range(10) for tenant in tenants]
    events[10:10] = [first, same]
    events[60:60] = [contradicting]
    for event in events:
        log.publish(event)
    await log.settle()
    after = [each for each in events[61:] if each.tenant_id == acme.id]
    async with database.admin() as admin:
        parked = await admin.fetchval("select count(*) from ledger.parked_record")
    assert parked == 1 + len(after), "its tenant waits behind it, nobody else"
    told = [each.causation_id for each in log.events(JournalEntryPosted)]
    expected = [e.id for e in events if e not in (same, contradicting, *after)]
    assert sorted(told) == sorted(expected)
    await assert_sound(database)


async def test_two_zombies_and_redelivery(
    ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    """Two workers apply the same records of the same tenants at once, a tenth of them again."""
    chance = random.Random(5)
    tenants = [Tenant() for _ in range(3)]
    events = [chance.choice(tenants).payment(chance.randrange(1, 999)) for _ in range(200)]
    told = events + [
        event.model_copy(update={"id": new_id()}) for event in chance.sample(events, 20)
    ]
    records = [log.publish(event) for event in told]
    del log.topics["payments.events"]

    async def work(name: str, seed: int) -> None:
        order = random.Random(seed)
        applier = Applier(name, HANDLERS)
        at = 0
        while at < len(records):
            size = order.randrange(1, 40)
            async with ledger.transaction() as tx:
                await applier.apply(tx, records[at : at + size])
            at += size

    await asyncio.gather(work("ledger", 1), work("zombie", 2))
    async with database.admin() as admin:
        booked = await admin.fetchval("select count(*) from ledger.journal_entry")
        sent = await admin.fetchval("select count(*) from ledger.outbox")
    assert booked == sent == len(events)
    await assert_sound(database)


@pytest.mark.usefixtures("ledger")
async def test_which_invoice_a_payment_pays_is_kept_once(
    log: MemoryLog, database: TestDatabase
) -> None:
    acme = Tenant()
    payment = acme.payment(4900, stripe_charge_id="ch_1", stripe_invoice_id="in_1")
    at_the_same_moment = payment.model_copy(update={"id": new_id()})
    for told in (payment, at_the_same_moment, acme.event(payment.data)):
        log.publish(told)
    await log.settle()
    other = acme.payment(100, stripe_charge_id="ch_2", stripe_invoice_id="in_1")
    for told in (acme.event(payment.data), other):
        log.publish(told)
    await log.settle()
    async with database.admin() as admin:
        kept = await admin.fetch(
            "select source_key, amount_minor from ledger.invoice_payment order by source_key"
        )
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
    assert [tuple(row) for row in kept] == [
        ("payment:platform:ch_1", 4900),
        ("payment:platform:ch_2", 100),
    ]


async def test_blocks_are_made_as_accounts_grow(ledger: Database, database: TestDatabase) -> None:
    """1,024 postings make a block, whichever call they come in."""
    acme = new_id()
    async with ledger.tenant(acme, "test", books=("platform",)) as tx:
        for start, end in ((0, 1000), (1000, 1023), (1023, 1024), (1024, 2100)):
            await book(tx, *(transfer(1, f"k{each}") for each in range(start, end)))
    async with database.admin() as admin:
        blocks = await admin.fetch(
            "select account, block, change_minor from ledger.posting_block order by 1, 2"
        )
    assert [(row["account"], row["block"], row["change_minor"]) for row in blocks] == [
        *(("asset:bank", block, 1024) for block in range(2)),
        *(("liability:suspense", block, -1024) for block in range(2)),
    ]
    await assert_sound(database)


async def test_a_full_block_is_read_by_itself(ledger: Database, database: TestDatabase) -> None:
    """However long the book is, and whatever the planner knows of it."""
    acme = new_id()
    read = """
        select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables
        where schemaname = 'ledger' and relname = 'posting'
    """
    for is_known in (False, True):
        first = 3_072 * is_known
        async with ledger.tenant(acme, "test", books=("platform",)) as tx:
            await book(tx, *(transfer(1, f"k{first + each}") for each in range(3_000)))
        if is_known:
            async with database.admin() as admin:
                await admin.execute("analyze")
        async with ledger.tenant(acme, "test", books=("platform",)) as tx:
            before = await tx.fetchval(read)
            # Where 3,072 and 6,144 are full.
            await book(tx, *(transfer(1, f"l{first + each}") for each in range(72)))
            assert await tx.fetchval(read) - before == 2 * 1_024
    await assert_sound(database)


async def test_a_call_without_anything_new_changes_nothing(
    ledger: Database, database: TestDatabase
) -> None:
    async with ledger.tenant(new_id(), "test", books=("platform",)) as tx:
        await book(tx, transfer(5, "a"), effective_at=START)
    before = await snapshot(database)
    async with ledger.tenant(new_id(), "test", books=("platform",)) as tx:
        assert await book(tx) == []
    assert await snapshot(database) == before
