"""What the benchmarks of the ledger share: records as they come from Kafka, books that are not new, one large account."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.stripe_sync import PaymentSucceeded
from libs.contracts.topics import TOPIC_OF
from libs.db.pool import Cause, Database
from libs.db.tenant import Scope
from libs.directory.consume import consumers_of
from libs.ids import new_id
from libs.messaging.consume import Consumer
from libs.messaging.fence import create_fences
from libs.messaging.records import TYPE_HEADER, Record
from services.ledger import chart, posting
from services.ledger.app import LANES
from services.ledger.entries import Entry, credit, debit
from services.ledger.handlers import HANDLERS
from services.ledger.store import Booking

BATCH = 1_000
TENANTS, ACCOUNTS = 20, 10_000
LINES_MAX = 2_000
BOTH = ("platform", "tenant")
START = datetime(2026, 1, 1, tzinfo=UTC)


def places_of(process: int) -> list[TopicPartition]:
    """The partitions that a process reads, one in each lane."""
    topic = TOPIC_OF[PaymentSucceeded].name
    return [TopicPartition(topic, process * LANES + lane) for lane in range(LANES)]


class Workload:
    """Batches of records: payments of many tenants, a tenth of them told again."""

    def __init__(self, seed: int, tenants: int) -> None:
        self._chance = random.Random(seed)
        self.tenants = [new_id() for _ in range(tenants)]
        self._told: list[PaymentSucceeded] = []
        self._owners: list[UUID] = []
        self._offset = 0

    def batch(self, place: TopicPartition, *, hot: bool) -> list[Record]:
        """The next batch of a partition, in which accounts are hot or spread."""
        records = []
        for _ in range(BATCH):
            if self._told and self._chance.random() < 0.1:
                at = self._chance.randrange(len(self._told))
                records.append(self._record(place, self._owners[at], self._told[at]))
                continue
            owner = self._chance.choice(self.tenants)
            account = "acct_hot" if hot else f"acct_{self._chance.randrange(ACCOUNTS)}"
            self._told.append(_payment(account, self._chance.randrange(1, 10**6)))
            self._owners.append(owner)
            records.append(self._record(place, owner, self._told[-1]))
        return records

    def _record(self, place: TopicPartition, owner: UUID, fact: PaymentSucceeded) -> Record:
        event = wrap(fact, tenant_id=owner, mode="test", source="stripe_sync", effective_at=START)
        self._offset += 1
        return Record(
            place.topic,
            place.partition,
            self._offset - 1,
            utc_now(),
            str(owner).encode(),
            event.model_dump_json().encode(),
            ((TYPE_HEADER, event.type.encode()),),
        )


def _payment(account: str, amount_minor: int) -> PaymentSucceeded:
    return PaymentSucceeded(
        payment_id=new_id(),
        account=account,
        collected_by="platform",
        customer_id=new_id(),
        stripe_payment_intent_id=None,
        stripe_charge_id=f"ch_{new_id().hex}",
        stripe_invoice_id="in_1",
        amount_minor=amount_minor,
        currency="EUR",
        paid_at=START,
    )


async def use_every_account(ledger: Database, tenants: Sequence[UUID], accounts: int) -> None:
    """Book something on each account that the workload knows: a ledger is new only once."""
    for tenant in tenants:
        for start in range(0, accounts, LINES_MAX):
            names = [f"acct_{each}" for each in range(start, min(start + LINES_MAX, accounts))]
            lines = [debit(chart.clearing(name), 1, "EUR") for name in [*names, "acct_hot"]]
            lines.append(credit(chart.RECEIVABLE, len(lines), "EUR"))
            entry = Entry("platform", f"opening:{start}", "opening", tuple(lines))
            booking = Booking(new_id(), tenant, entry, START, START, Cause(new_id(), new_id()))
            async with ledger.transaction(Scope((tenant,), "test", BOTH)) as tx:
                await posting.book(tx, [booking])


class Worker:
    """The service's lanes where Kafka would call them: each reads a batch while one is at work."""

    def __init__(self, ledger: Database, places: Sequence[TopicPartition]) -> None:
        self._ledger = ledger
        self.places = places
        self._lanes = consumers_of(
            ledger, "none", HANDLERS, parks=True, max_records=BATCH, lanes=len(places)
        )[: len(places)]

    async def begin(self) -> None:
        """Stand at the beginning of the log."""
        for lane, place in zip(self._lanes, self.places, strict=True):
            async with self._ledger.transaction() as tx:
                await create_fences(tx, lane.name, {place: 0})
            lane.places.positions[place] = 0

    async def post(self, batches: Sequence[list[list[Record]]]) -> None:
        """Post the batches of each lane; all of them are committed when this ends."""
        await asyncio.gather(*map(_deliver, self._lanes, batches))


async def _deliver(lane: Consumer, batches: list[list[Record]]) -> None:
    """Hand out batches as a client does, which keeps none that it has handed out."""
    batches.reverse()
    while batches:
        await lane.deliver(batches.pop())
    await lane.end()


_LARGE_ACCOUNT = """
with entry as (
    select n, gen_random_uuid() as id, 'k' || n as key, $4::timestamptz + n * interval '1 second' as at,
        case when n % 20 = 0 then n * 7919 % 2592000 else 0 end * interval '1 second' as late
    from generate_series($2::bigint, $3::bigint) n
)
select count(*) from post_entries(
    array(select $1::uuid from entry order by n),
    array(select 'platform' from entry order by n),
    array(select id from entry order by n),
    array(select key from entry order by n),
    array(select sha256(convert_to(concat('{"book":"platform","postings":[["asset:bank","debit",', n,
        ',"EUR"],["liability:suspense","credit",', n, ',"EUR"]],"source_key":"', key, '"}'), 'UTF8'))
        from entry order by n),
    array(select at - late from entry order by n),
    array(select at from entry order by n),
    array(select id from entry order by n),
    array(select 'bench' from entry order by n),
    array(select 1 from entry order by n),
    array(select id from entry, generate_series(1, 2) line order by n, line),
    array(select case line when 1 then 'asset:bank' else 'liability:suspense' end
          from entry, generate_series(1, 2) line order by n, line),
    array(select case line when 1 then 'debit' else 'credit' end
          from entry, generate_series(1, 2) line order by n, line),
    array(select n from entry, generate_series(1, 2) line order by n, line),
    array(select 'EUR' from entry, generate_series(1, 2) line order by n, line))
"""


async def grow_account(ledger: Database, admin: Any, tenant: UUID, postings: int) -> None:
    """Give the bank account of a tenant so many postings, a second apart.

    Each twentieth holds since up to a month before it was recorded. All is made in Postgres, by the
    function that books everything, so that every sum, number and hash is there.
    """
    scope = Scope((tenant,), "test", BOTH)
    step = 10 * BATCH
    async with ledger.transaction(scope) as tx:
        await posting.open_books(tx)
    for start in range(1, postings + 1, step):
        async with ledger.transaction(scope) as tx:
            end = min(start + step - 1, postings)
            booked = await tx.fetchval(_LARGE_ACCOUNT, tenant, start, end, START)
            assert booked == end - start + 1
        if start == 1:
            await admin.execute("analyze")
