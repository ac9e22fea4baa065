"""Books that are made of their topics anew: the same entries, reversals too, in any order."""

import asyncio
import random
from typing import Any

import pytest

from ledger.callers import Api
from ledger.facts import Tenant, assert_sound, net_balances, snapshot
from libs.contracts.ledger import JournalEntryPosted, ReverseEntry
from libs.db.pool import Cause, Database
from libs.ids import new_id
from libs.messaging.apply import Delivery
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import money, reversal
from tests.conftest import story_seed

BOTH = ("platform", "tenant")
ACME = {"X-Tenant-ID": "acme"}
WHY = {"reason": "booked twice by hand", "effective_at": "2026-02-16T10:30:00Z"}
CONTENT = """
select concat_ws(' ', e.tenant_id, e.mode, e.book, e.id, e.source_key, encode(e.content_hash, 'hex'),
    e.effective_at, e.booked_at, e.causation_id, e.rule, e.reverses) as text
from ledger.journal_entry e order by 1
"""


async def forget_everything(database: TestDatabase) -> None:
    """The ledger's schema as it was when it was new: books, inbox, outbox and fences."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select tablename as name from pg_tables where schemaname = 'ledger' "
            "and tablename <> 'schema_migration'"
        )
        tables = ", ".join(f"ledger.{row['name']}" for row in rows)
        async with admin.transaction():
            await admin.execute("set local session_replication_role = replica")
            await admin.execute(f"truncate {tables}")


async def read_anew(log: MemoryLog, ledger: Database, topics: list[str]) -> None:
    """Read every topic from its start, in this order."""
    for consumer in log.consumers(ledger):
        consumer.places.positions.clear()
        consumer.topics.sort(key=topics.index)
    await log.settle()


async def contents(database: TestDatabase) -> list[str]:
    async with database.admin() as admin:
        return [row["text"] for row in await admin.fetch(CONTENT)]


async def reverse(api: Api, entry_id: str) -> dict[str, Any]:
    answer = await api.post(f"entries/{entry_id}/reverse", api.operator, WHY, ACME)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_books_made_anew_hold_the_reversals(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    """An invoice is taken back, and brought back, and taken back: three of its kind in a row."""
    (entry,) = (await api.get("entries", api.operator, ACME, account="revenue:flat")).json()[
        "items"
    ]
    reversed_id = entry["id"]
    for _ in range(3):
        reversed_id = (await reverse(api, reversed_id))["id"]
    await log.settle()
    assert len(log.events(ReverseEntry)) == 3
    balances, entries = await net_balances(database), await contents(database)
    assert "revenue:flat EUR" not in balances
    (consumer, _) = log.consumers(ledger)
    topics = sorted({name for each in log.consumers(ledger) for name in each.topics})
    assert "ledger.commands" in consumer.topics
    orders = [
        ["ledger.commands", *(name for name in topics if name != "ledger.commands")],
        [*(name for name in topics if name != "ledger.commands"), "ledger.commands"],
        random.Random(story_seed()).sample(topics, len(topics)),
    ]
    for order in orders:
        await forget_everything(database)
        await read_anew(log, ledger, order)
        assert await net_balances(database) == balances, order
        assert await contents(database) == entries, order
        async with database.admin() as admin:
            assert not await admin.fetchval("select count(*) from ledger.waiting_reversal")
        await assert_sound(database)
    before = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before


@pytest.mark.usefixtures("ledger")
async def test_commands_wait_for_the_fact_and_for_each_other(
    log: MemoryLog, database: TestDatabase
) -> None:
    """Two commands, the second for the reversal that the first one is, long before the fact."""
    acme = Tenant()
    fact = acme.payment(4900, stripe_charge_id="ch_1")
    key = "payment:platform:ch_1"
    first = acme.event(
        ReverseEntry(
            book="platform",
            source_key=key,
            reversal_id=fact.id,
            booked_at=fact.occurred_at,
            reason="x",
            actor="key_x",
        )
    )
    again = first.data.model_copy(update={"source_key": f"reversal:{key}", "reversal_id": first.id})
    for event in (acme.event(again), first, acme.event(first.data)):
        log.publish(event)
    await log.settle()
    assert await net_balances(database) == {}
    log.publish(fact)
    await log.settle()
    assert [event.data.source_key for event in log.events(JournalEntryPosted)] == [
        key,
        f"reversal:{key}",
        f"reversal:reversal:{key}",
    ]
    assert await net_balances(database) == {
        "asset:receivable EUR": -4900,
        "asset:stripe_clearing:platform EUR": 4900,
    }
    before = await snapshot(database)
    assert before["waiting_reversal"] == []
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before
    await assert_sound(database)


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("other", [{}, {"amount_minor": 1}], ids=["same", "other amount"])
async def test_the_same_fact_twice_in_one_batch(
    log: MemoryLog, database: TestDatabase, other: dict[str, Any]
) -> None:
    """Two events of the same moment give the same entry id: booked once, never both as one."""
    acme = Tenant()
    told = acme.payment(4900, stripe_charge_id="ch_1")
    data = told.data.model_copy(update=other)
    again = acme.event(data).model_copy(update={"occurred_at": told.occurred_at})
    log.publish(told)
    log.publish(again)
    await log.settle()
    assert await net_balances(database) == {
        "asset:receivable EUR": -4900,
        "asset:stripe_clearing:platform EUR": 4900,
    }
    async with database.admin() as admin:
        parked = await admin.fetchval("select count(*) from ledger.parked_key")
    assert parked == len(other)
    await assert_sound(database)


async def test_a_command_and_its_fact_at_the_same_moment(
    ledger: Database, database: TestDatabase
) -> None:
    """The fact waits for the command that is being put aside, and sees it then."""
    acme = Tenant()
    fact = acme.payment(4900, stripe_charge_id="ch_1")
    command = acme.event(
        ReverseEntry(
            book="platform",
            source_key="payment:platform:ch_1",
            reversal_id=new_id(),
            booked_at=fact.occurred_at,
            reason="x",
            actor="key_x",
        )
    )

    async def book_fact() -> None:
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            await money.book_facts(tx, [Delivery(fact, Cause(fact.id, fact.correlation_id))])

    async with database.admin() as admin:
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            await reversal.take_command(tx, command)
            booking = asyncio.create_task(book_fact())
            while not await admin.fetchval(
                "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
            ):
                assert not booking.done(), "it saw neither the lock nor the command"
                await asyncio.sleep(0.01)
        await booking
        assert not await admin.fetchval("select count(*) from ledger.waiting_reversal")
    assert await net_balances(database) == {}
    assert len(await contents(database)) == 2
