"""Revenue invoiced in advance is earned month by month, once, by the tenant's business clock."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from aiokafka import TopicPartition

from ledger.callers import Api
from ledger.facts import START, Tenant, assert_sound, net_balances, snapshot
from ledger.final_invoices import at, credited, final, line, voided
from ledger.test_rebooking import contents, forget_everything, read_anew
from libs.clock import utc_now
from libs.contracts.billing import InvoiceFinalized
from libs.contracts.envelope import wrap
from libs.contracts.ledger import JournalEntryPosted, RecognizeRevenue
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Database
from libs.messaging.caught_up import CaughtUp, Ends
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import jobs

DEFERRED, EARNED = "liability:deferred_revenue EUR", "revenue:flat EUR"
YEAR = (366, "2031-01-15T12:00", "2032-01-16T12:00")
"""A minor unit a day, so that a month's part is its days."""


class World:
    """One tenant, its invoices and its clock."""

    def __init__(self, ledger: Database, log: MemoryLog, database: TestDatabase) -> None:
        self.ledger, self.log, self.database = ledger, log, database
        self.tenant = Tenant()
        self.snapshots = 0

    async def tell(self, fact: Any, when: str) -> None:
        """Billing says something that holds at this time."""
        event = wrap(
            fact, tenant_id=self.tenant.id, mode="test", source="billing", effective_at=at(when)
        )
        self.log.publish(event)
        await self.log.settle()

    async def pass_to(self, when: str) -> None:
        """The business clock of the tenant is moved, and what is due then is done."""
        self.snapshots += 1
        record = TenantSnapshot(
            version=self.snapshots,
            slug=f"acme-{self.tenant.id.hex}",
            name="Acme",
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=self.tenant.customer_id,
            clock_offset_seconds=int((at(when) - utc_now()).total_seconds()) + 1,
        )
        self.log.publish(
            wrap(record, tenant_id=self.tenant.id, mode=None, source="tenants", effective_at=START)
        )
        await self.log.settle()
        await jobs.recognize_revenue(self.ledger)
        await self.log.settle()

    async def standing(self) -> tuple[int, int]:
        """What is not earned yet, and what is: both as credits."""
        net = await net_balances(self.database, self.tenant)
        return -net.get(DEFERRED, 0), -net.get(EARNED, 0)

    def told(self) -> list[tuple[str, int, int]]:
        """Month, revision and amount of what was recognized."""
        return [
            (f"{event.data.month:%Y-%m}", event.data.revision, event.data.amount_minor)
            for event in self.log.events(RecognizeRevenue)
        ]

    def effective(self) -> list[datetime]:
        return [event.effective_at for event in self.log.events(RecognizeRevenue)]


@pytest.fixture
def world(ledger: Database, log: MemoryLog, database: TestDatabase) -> World:
    return World(ledger, log, database)


def for_a_year() -> InvoiceFinalized:
    return final(line("flat", *YEAR), date="2031-01-15T12:00")


async def test_months_are_earned_when_they_are_over(world: World, database: TestDatabase) -> None:
    """The first from the day the period begins, the last to the day before it ends; each once."""
    await world.tell(for_a_year(), "2031-01-15T12:00")
    await world.pass_to("2031-01-31T23:00")
    assert await world.standing() == (366, 0)
    await world.pass_to("2031-02-01")
    assert await world.standing() == (349, 17)
    await world.pass_to("2031-02-20")
    await world.pass_to("2031-04-30")
    assert world.told() == [("2031-01", 0, 17), ("2031-02", 0, 28), ("2031-03", 0, 31)]
    assert [str(when)[:10] for when in world.effective()] == [
        "2031-01-31",
        "2031-02-28",
        "2031-03-31",
    ]
    await world.pass_to("2033-01-01")
    assert await world.standing() == (0, 366)
    assert len(world.told()) == 13
    before = await snapshot(database)
    await world.log.replay(clear_inboxes=True)
    await jobs.recognize_revenue(world.ledger)
    assert await snapshot(database) == before
    await assert_sound(database)


async def test_a_void_takes_back_what_was_earned_and_stops_the_rest(world: World) -> None:
    invoice = for_a_year()
    await world.tell(invoice, "2031-01-15T12:00")
    await world.pass_to("2031-03-01")
    await world.tell(voided(invoice), "2031-03-10")
    await world.pass_to("2031-03-11")
    assert world.told()[2:] == [("2031-01", 2, -17), ("2031-02", 2, -28)]
    assert world.effective()[2:] == [at("2031-03-10")] * 2
    assert await world.standing() == (0, 0)
    assert await net_balances(world.database, world.tenant) == {}
    await world.pass_to("2033-01-01")
    assert len(world.told()) == 4


async def test_a_credit_note_lowers_every_month(world: World) -> None:
    """A third is credited: of what is earned a third comes back, and the rest comes to two thirds."""
    invoice = for_a_year()
    await world.tell(invoice, "2031-01-15T12:00")
    await world.pass_to("2031-02-01")
    await world.tell(credited(invoice, 122), "2031-02-10")
    await world.pass_to("2031-02-11")
    assert await world.standing() == (244 - 11, 11)
    await world.tell(credited(invoice, 183, 122, sequence=3), "2031-02-12")
    await world.pass_to("2033-01-01")
    assert await world.standing() == (0, 183)
    assert world.told()[:3] == [("2031-01", 0, 17), ("2031-01", 1, -6), ("2031-01", 3, -2)]


async def test_an_invoice_that_comes_late_is_not_earned_before_it(world: World) -> None:
    """Its first month is over when it becomes final; that part counts from then on."""
    late = final(line("flat", *YEAR), date="2031-03-05")
    await world.tell(late, "2031-03-05")
    await world.pass_to("2031-03-06")
    assert world.told() == [("2031-01", 0, 17), ("2031-02", 0, 28)]
    assert world.effective() == [at("2031-03-05")] * 2


async def test_two_workers_tell_each_month_once(world: World, database: TestDatabase) -> None:
    """Many lines, two jobs at the same moment, and a batch that is told again."""
    for _ in range(5):
        await world.tell(for_a_year(), "2031-01-15T12:00")
    await world.pass_to("2031-01-20")
    async with database.admin() as admin:
        await admin.execute(
            "update ledger.directory set clock_offset_seconds = clock_offset_seconds + 30 * 86400"
        )
    await asyncio.gather(*(jobs.recognize_revenue(world.ledger) for _ in range(3)))
    await world.log.settle()
    assert await world.standing() == (5 * 349, 5 * 17)
    await jobs.recognize_revenue(world.ledger)
    await world.log.settle()
    assert len(world.told()) == 5


async def test_books_made_anew_hold_what_was_recognized(
    world: World, database: TestDatabase
) -> None:
    """In whichever order their topics are read; and the job finds nothing left to tell."""
    invoice, other = for_a_year(), for_a_year()
    await world.tell(invoice, "2031-01-15T12:00")
    await world.tell(other, "2031-01-15T12:00")
    await world.pass_to("2031-03-01")
    await world.tell(voided(invoice), "2031-03-10")
    await world.pass_to("2031-03-11")
    balances, entries = await net_balances(database), await contents(database)
    told = world.told()
    topics = sorted({name for each in world.log.consumers(world.ledger) for name in each.topics})
    for order in (topics, topics[::-1]):
        await forget_everything(database)
        await read_anew(world.log, world.ledger, order)
        assert await net_balances(database) == balances
        assert await contents(database) == entries
    await jobs.recognize_revenue(world.ledger)
    await world.log.settle()
    assert world.told() == told
    assert await contents(database) == entries
    await assert_sound(database)


@pytest.mark.parametrize("first", jobs.TOPICS_OF_RECOGNITION)
async def test_the_job_waits_for_what_it_told_before_a_restore(
    world: World, database: TestDatabase, first: str
) -> None:
    """It runs when one topic is read and the other is not, with a credit note between months."""
    invoice = for_a_year()
    await world.tell(invoice, "2031-01-15T12:00")
    await world.pass_to("2031-02-01")
    await world.tell(credited(invoice, 122), "2031-02-10")
    await world.pass_to("2031-03-11")
    balances, entries, told = await net_balances(database), await contents(database), world.told()
    await forget_everything(database)

    async def ends() -> Ends:
        topics = world.log.topics
        names = jobs.TOPICS_OF_RECOGNITION
        return {TopicPartition(name, 0): len(topics[name]) for name in names}

    job = CaughtUp(world.ledger, ends).first(lambda: jobs.recognize_revenue(world.ledger))
    await job()
    (events, directory) = world.log.consumers(world.ledger)
    every, last = [*events.topics], ({*jobs.TOPICS_OF_RECOGNITION} - {first}).pop()
    for consumer in (events, directory):
        consumer.places.positions.clear()
    for topics in ([name for name in every if name != last], every):
        events.topics[:] = topics
        await world.log.settle()
        await job()
        await world.log.settle()
    assert world.told() == told
    assert (await net_balances(database), await contents(database)) == (balances, entries)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from ledger.parked_key") == 0
    await world.pass_to("2031-04-01")
    await job()
    assert len(world.told()) == len(told) + 1
    await assert_sound(database)


async def test_what_is_not_of_this_tenant_or_mode_stays(world: World) -> None:
    """Another tenant's clock, and a live clock that nobody can move, earn nothing."""
    other = World(world.ledger, world.log, world.database)
    await other.tell(for_a_year(), "2031-01-15T12:00")
    live = wrap(
        for_a_year(),
        tenant_id=world.tenant.id,
        mode="live",
        source="billing",
        effective_at=at("2031-01-15"),
    )
    world.log.publish(live)
    await world.pass_to("2031-06-01")
    assert world.told() == []
    assert await other.standing() == (366, 0)
    assert not world.log.events(JournalEntryPosted)[2:]


async def test_the_waterfall_shows_what_was_earned_and_what_is_to_come(
    api: Api, ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    """By the month of the invoice and the month it is earned in; the tenant's own book is apart."""
    world = World(ledger, log, database)
    for day in ("15", "20"):
        date = f"2031-01-{day}"
        await world.tell(final(line("flat", 59, date, "2031-03-01"), date=date), date)
    late = line("proration", -28, "2031-02-01", "2031-03-01")
    await world.tell(final(late, date="2031-02-01"), "2031-02-01")
    await world.pass_to("2031-02-02")
    path, acme = "revenue-waterfall", {"X-Tenant-ID": str(world.tenant.id)}
    months = {"first": "2031-01", "last": "2031-02"}
    body = (await api.get(path, api.operator, acme, **months)).json()
    cells = [
        (each["invoiced_month"], each["month"], each["recognized_minor"], each["to_come_minor"])
        for each in body["items"]
    ]
    assert cells == [
        ("2031-01", "2031-01", 22 + 18, 0),
        ("2031-01", "2031-02", 0, 37 + 41),
        ("2031-02", "2031-02", 0, -28),
    ]
    whole = (await api.get(path, api.operator, currency="EUR", **months)).json()
    assert whole == body
    assert (await api.get(path, api.acme, **months)).json()["items"] == []
    for key, more in ((api.usage_only, {}), (api.acme, {"book": "platform"})):
        assert (await api.get(path, key, **months, **more)).status_code == 403
    for wrong in (
        {"first": "2031-02", "last": "2031-01"},
        {"first": "2031-01", "last": "2036-01"},
        {"first": "2031-13", "last": "2036-01"},
        {"first": "2031-01"},
    ):
        assert (await api.get(path, api.operator, acme, **wrong)).status_code == 422
