"""Events handled together: one call for many tenants, and for each what it would have had alone."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.billing import CreditGranted, CustomerErased, InvoicePaid
from libs.contracts.envelope import Envelope, Fact, wrap
from libs.contracts.ledger import JournalEntryPosted, PostedLine
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode
from libs.ids import new_id
from libs.messaging.apply import Delivery, Handler, Together
from libs.messaging.interventions import Act, release_key
from libs.messaging.outbox import emit
from libs.observability.tracing import configure_tracing, start_span
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

ACME, GLOBEX = new_id(), new_id()


def sent(tenant_id: UUID, fact: Fact, mode: Mode) -> Envelope[Fact]:
    return wrap(fact, tenant_id=tenant_id, mode=mode, source="billing", effective_at=utc_now())


def credit(tenant_id: UUID, mode: Mode = "test") -> Envelope[Fact]:
    """A credit grant of a tenant, as billing would send it."""
    fact = CreditGranted(
        grant_id=new_id(),
        customer_id=new_id(),
        billed_by="platform",
        amount_minor=1,
        currency="EUR",
    )
    return sent(tenant_id, fact, mode)


def paid(tenant_id: UUID) -> Envelope[Fact]:
    """An event that is handled alone."""
    fact = InvoicePaid(
        invoice_id=new_id(), number="1", customer_id=new_id(), currency="EUR", paid_minor=1
    )
    return sent(tenant_id, fact, "test")


class Books:
    """Handlers that tell of each event in the outbox, and remember how they were called."""

    def __init__(self) -> None:
        self.calls: list[list[UUID]] = []
        self.poisoned: set[UUID] = set()

    @property
    def handlers(self) -> dict[type[Fact], Handler]:
        return {CreditGranted: Together(self.take_all), InvoicePaid: self.take_one}

    async def take_all(self, deliveries: Sequence[Delivery], tx: Tx) -> None:
        self.calls.append([each.event.id for each in deliveries])
        for each in deliveries:
            if each.event.id in self.poisoned:
                raise ValueError("cannot be booked")
            assert each.event.tenant_id in tx.scope.tenants
            assert each.event.mode == tx.mode
            emit(tx, entry_of(each.event), tenant_id=each.event.tenant_id, cause=each.cause)

    async def take_one(self, event: Envelope[Any], tx: Tx) -> None:
        self.calls.append([event.id])
        emit(tx, entry_of(event), effective_at=event.effective_at)


def entry_of(event: Envelope[Any]) -> JournalEntryPosted:
    line = PostedLine(account="a", side="debit", amount_minor=1, currency="EUR")
    return JournalEntryPosted(
        entry_id=new_id(),
        book="tenant",
        source_key=str(event.id),
        booked_at=event.occurred_at,
        postings=(line,),
    )


def told(log: MemoryLog) -> list[tuple[UUID, str]]:
    """What was told, by the tenant it is told of and the event it tells of."""
    return [(event.tenant_id, event.data.source_key) for event in log.events(JournalEntryPosted)]


@pytest.fixture
async def ledger(database: TestDatabase) -> Any:
    async with database.open("ledger") as opened:
        yield opened


@pytest.fixture
def books(ledger: Database, log: MemoryLog) -> Books:
    found = Books()
    log.add(ledger, found.handlers, parks=True)
    return found


async def test_neighbours_of_all_tenants_are_handled_in_one_call(
    log: MemoryLog, books: Books
) -> None:
    events = [credit(ACME), credit(GLOBEX), credit(ACME)]
    for event in (*events, events[0]):
        log.publish(event)
    await log.settle()
    assert books.calls == [[event.id for event in events]]
    assert sorted(told(log)) == sorted((each.tenant_id, str(each.id)) for each in events)


async def test_an_event_that_is_handled_alone_keeps_its_place(log: MemoryLog, books: Books) -> None:
    events = [credit(ACME), paid(ACME), credit(ACME), credit(GLOBEX)]
    for event in events:
        log.publish(event)
    await log.settle()
    ids = [event.id for event in events]
    assert books.calls == [[ids[0]], [ids[1]], ids[2:]]


async def test_what_nobody_handles_parts_no_neighbours_and_leaves_no_trace(
    ledger: Database, log: MemoryLog, books: Books
) -> None:
    passed_over = sent(ACME, CustomerErased(customer_id=new_id()), "test")
    events = [credit(ACME), passed_over, credit(GLOBEX)]
    for event in events:
        log.publish(event)
    await log.settle()
    assert books.calls == [[events[0].id, events[2].id]]
    async with ledger.transaction() as tx:
        seen = {row["event_id"] for row in await tx.fetch("select event_id from inbox")}
    assert seen == {events[0].id, events[2].id}


async def test_modes_never_meet_in_a_call(log: MemoryLog, books: Books) -> None:
    events = [credit(ACME, "test"), credit(ACME, "live"), credit(GLOBEX, "test")]
    for event in events:
        log.publish(event)
    await log.settle()
    assert books.calls == [[events[0].id, events[2].id], [events[1].id]]
    modes = {event.data.source_key: event.mode for event in log.events(JournalEntryPosted)}
    assert modes == {str(event.id): event.mode for event in events}


async def test_one_that_fails_is_found_and_only_its_tenant_waits(
    ledger: Database, log: MemoryLog, books: Books
) -> None:
    bad, later, before = credit(ACME), credit(ACME), credit(ACME)
    passed_over = sent(ACME, CustomerErased(customer_id=new_id()), "test")
    others = [credit(GLOBEX) for _ in range(5)]
    books.poisoned.add(bad.id)
    for event in (before, *others[:2], bad, *others[2:], passed_over, later):
        log.publish(event)
    await log.settle()
    expected = {(GLOBEX, str(other.id)) for other in others} | {(ACME, str(before.id))}
    assert set(told(log)) == expected
    assert len(told(log)) == len(expected)
    books.poisoned.clear()
    assert await release_key(
        ledger, "ledger", "billing.events", str(ACME), Act("cli:test", "mended")
    )
    await log.consumers(ledger)[0].drain()
    await log.settle()
    assert [key for tenant, key in told(log) if tenant == ACME] == [
        str(event.id) for event in (before, bad, later)
    ]
    async with ledger.transaction() as tx:
        seen = {row["event_id"] for row in await tx.fetch("select event_id from inbox")}
    assert seen == {event.id for event in (before, bad, later, *others)}


async def test_what_each_leads_to_names_it_as_cause_and_stays_in_its_trace(
    ledger: Database, log: MemoryLog, books: Books
) -> None:
    configure_tracing("trial", None)
    traces = {}
    for event in (credit(ACME), credit(GLOBEX)):
        with start_span("request") as span:
            traces[event.id] = span.get_span_context().trace_id
            log.publish(event)
    await log.settle()
    assert len(books.calls) == 1
    for entry in log.events(JournalEntryPosted):
        assert entry.causation_id in traces
        assert str(entry.causation_id) == entry.data.source_key
    async with ledger.maintenance() as tx:
        rows = await tx.fetch("select payload, headers from outbox")
    for row in rows:
        (cause,) = [each for each in traces if str(each) in row["payload"]]
        assert f"{traces[cause]:032x}" in row["headers"]["traceparent"]
