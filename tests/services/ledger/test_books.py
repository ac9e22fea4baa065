"""Facts come in, books stand: once, in any order, and again."""

import asyncio
import random

import pytest
from prometheus_client import REGISTRY

from ledger.facts import START, Tenant, assert_sound, book, net_balances, snapshot, transfer
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import DisputeChanged
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog


@pytest.mark.usefixtures("ledger")
async def test_a_month_of_a_tenant(log: MemoryLog, database: TestDatabase) -> None:
    acme = Tenant()
    for event in (
        acme.created(),
        acme.grant(1000),
        acme.invoice({"flat": 4900}),
        acme.payment(4900),
        acme.transaction("charge", 4900, 172),
        acme.invoice({"flat": 4900, "usage": 1350}, credits_minor=1000),
        acme.payment(5250),
        acme.transaction("charge", 5250, 182),
        acme.transaction("refund", -250),
        acme.transaction("payout", -3000),
        acme.transaction("adjustment", -500, 1500),
    ):
        log.publish(event)
    await log.settle()
    assert await net_balances(database) == {
        "asset:bank EUR": 3000,
        "asset:stripe_clearing:platform EUR": 4900 - 172 + 5250 - 182 - 250 - 3000 - 2000,
        "expense:credits_granted EUR": 1000,
        "expense:disputes EUR": 500,
        "expense:stripe_fees EUR": 172 + 182 + 1500,
        "revenue:flat EUR": -9800,
        "revenue:refunds EUR": 250,
        "revenue:usage EUR": -1350,
    }
    await assert_sound(database)
    told = log.events(JournalEntryPosted)
    assert len(told) == 10
    assert {event.tenant_id for event in told} == {acme.id}
    finalized = told[1]
    assert finalized.data.source_key.startswith("invoice:")
    assert finalized.effective_at == START.replace(day=18)
    assert {(line.account, line.side) for line in finalized.data.postings} == {
        ("asset:receivable", "debit"),
        ("revenue:flat", "credit"),
    }


@pytest.mark.parametrize("clear_inboxes", [False, True])
@pytest.mark.usefixtures("ledger")
async def test_replay_changes_nothing(
    log: MemoryLog, database: TestDatabase, clear_inboxes: bool
) -> None:
    acme = Tenant()
    for event in (
        acme.payment(4900),
        acme.created(),
        acme.transaction("charge", 4900, 172),
        acme.invoice({"flat": 4900}),
        acme.grant(1000),
        acme.transaction("something_new", 77),
    ):
        log.publish(event)
    await log.settle()
    before = await snapshot(database)
    assert len(before["journal_entry"]) == 5
    await log.replay(clear_inboxes=clear_inboxes)
    assert await snapshot(database) == before


@pytest.mark.usefixtures("ledger")
async def test_a_fact_told_again_by_another_event_is_booked_once(
    log: MemoryLog, database: TestDatabase
) -> None:
    acme = Tenant()
    paid = acme.payment(4900)
    again = acme.event(paid.data.model_copy(update={"payment_id": new_id()}))
    log.publish(paid)
    log.publish(again)
    await log.settle()
    assert len(log.events(JournalEntryPosted)) == 1
    assert (await net_balances(database))["asset:receivable EUR"] == -4900


@pytest.mark.usefixtures("ledger")
async def test_the_same_fact_with_other_content_is_an_error_and_parks_its_key(
    log: MemoryLog, database: TestDatabase
) -> None:
    acme, globex = Tenant(), Tenant()
    paid = acme.payment(4900)
    log.publish(paid)
    log.publish(acme.event(paid.data.model_copy(update={"amount_minor": 5000})))
    log.publish(globex.payment(100))
    await log.settle()
    assert await net_balances(database, acme) == {
        "asset:receivable EUR": -4900,
        "asset:stripe_clearing:platform EUR": 4900,
    }
    assert await net_balances(database, globex)
    async with database.admin() as admin:
        parked = await admin.fetchrow("select key, reason from ledger.parked_key")
    assert (parked["key"], parked["reason"]) == (str(acme.id), "SourceKeyConflictError")


@pytest.mark.usefixtures("ledger")
async def test_what_a_dispute_lost_may_come_back(log: MemoryLog, database: TestDatabase) -> None:
    """Lost, partly brought back, won: told again at any time, and nobody's money is parked."""
    acme = Tenant()
    told: list[DisputeChanged] = []
    for status, moved, before, now in (
        ("lost", -4900, None, 4900),
        ("lost", 1000, 4900, 3900),
        ("won", 3900, 3900, 0),
    ):
        category = "dispute" if moved < 0 else "dispute_reversal"
        log.publish(acme.transaction("adjustment", moved, reporting_category=category))
        told.append(
            DisputeChanged(
                version=len(told) + 1,
                account="platform",
                collected_by="platform",
                customer_id=acme.customer_id,
                payment_id=None,
                stripe_dispute_id="du_1",
                stripe_charge_id="ch_1",
                stripe_payment_intent_id=None,
                amount_minor=4900,
                currency="EUR",
                reason="fraudulent",
                status=status,
                created_at=START,
                withdrawn_minor=now,
                withdrawn_currency="EUR",
                lost_before_minor=before,
                lost_minor=now,
            )
        )
        for fact in (told[-1], *random.Random(now).sample(told, len(told))):
            log.publish(acme.event(fact))
        await log.settle()
        net = await net_balances(database, acme)
        assert net.get("expense:disputes_lost EUR", 0) == now
        assert "expense:disputes EUR" not in net
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
    await assert_sound(database)


def suspended(kind: str) -> float:
    """How many movements of a kind this process has booked to suspense."""
    name = "sluice_ledger_suspense_entries_total"
    return REGISTRY.get_sample_value(name, {"kind": kind}) or 0.0


@pytest.mark.usefixtures("ledger")
async def test_money_that_no_rule_knows_is_in_suspense(
    log: MemoryLog, database: TestDatabase
) -> None:
    acme = Tenant()
    counted = suspended("unheard_of")
    log.publish(acme.transaction("climate_order_purchase", -1000, 30))
    log.publish(acme.transaction("unheard_of", 500, 20, account="acct_1", collected_by="tenant"))
    await log.settle()
    assert await net_balances(database) == {
        "asset:stripe_clearing:acct_1 EUR": 480,
        "asset:stripe_clearing:platform EUR": -1030,
        "liability:suspense EUR": 1030 - 480,
    }
    await log.replay(clear_inboxes=True)
    assert suspended("unheard_of") == counted + 1
    await assert_sound(database)


@pytest.mark.usefixtures("ledger")
async def test_going_live_opens_the_live_books_once(log: MemoryLog, database: TestDatabase) -> None:
    acme = Tenant()
    log.publish(acme.created())
    went_live = acme.went_live()
    log.publish(went_live)
    log.publish(went_live.model_copy(update={"id": new_id()}))
    await log.settle()
    async with database.admin() as admin:
        rows = await admin.fetch("select mode, book, count(*) from ledger.account group by 1, 2")
    opened = {(row["mode"], row["book"]): row["count"] for row in rows}
    assert set(opened) == {
        (mode, book) for mode in ("test", "live") for book in ("platform", "tenant")
    }
    assert len(set(opened.values())) == 1
    before = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before


@pytest.mark.usefixtures("ledger")
async def test_modes_and_books_are_apart(log: MemoryLog, database: TestDatabase) -> None:
    acme = Tenant()
    live = Tenant(acme.id, acme.customer_id, "live")
    paid = acme.payment(4900)
    log.publish(paid)
    log.publish(live.event(paid.data))
    log.publish(acme.event(paid.data.model_copy(update={"collected_by": "tenant"})))
    await log.settle()
    async with database.admin() as admin:
        rows = await admin.fetch("select mode, book, debit_minor from ledger.account_balance")
    assert sorted({(row["mode"], row["book"]) for row in rows}) == [
        ("live", "platform"),
        ("test", "platform"),
        ("test", "tenant"),
    ]
    await assert_sound(database)


async def test_two_writers_for_one_tenant(ledger: Database, database: TestDatabase) -> None:
    """What two workers that both believe to own a tenant would do, duplicates included."""
    acme = new_id()
    chance = random.Random(7)

    async def write(worker: int) -> int:
        booked = 0
        for batch in range(25):
            entries = [
                transfer(chance.randint(1, 1000), f"{worker}:{batch}:{each}") for each in range(6)
            ]
            entries.append(transfer(5, f"shared:{batch}"))
            async with ledger.tenant(acme, "test", books=("platform",)) as tx:
                booked += len(await book(tx, *entries))
        return booked

    booked = await asyncio.gather(*(write(worker) for worker in range(3)))
    assert sum(booked) == 3 * 25 * 6 + 25
    await assert_sound(database)


async def test_a_batch_with_the_same_fact_twice(ledger: Database, database: TestDatabase) -> None:
    async with ledger.tenant(new_id(), "test", books=("platform",)) as tx:
        booked = await book(tx, transfer(5, "a"), transfer(7, "b"), transfer(5, "a"))
    assert len(booked) == 2
    await assert_sound(database)
