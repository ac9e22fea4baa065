"""kill -9 of the ledger and of its Postgres under load: each payment is booked once, and the books hold.

`make chaos` books 100,000 payments and strikes 50 times; `make test` 1,500 and four times, with the same
draws each time. Two replicas of the service work on a Postgres of their own. A tenth of the records is
told again, under the same id or a new one. Two zombies book some tenants' payments beside the service
under names of their own, which no fence and no inbox knows: only the books themselves can refuse them.
"""

import asyncio
import base64
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from cli.ledger_proof import LedgerProof
from deploy.local.ports import scratch_port
from deploy.local.scratch import RunningKafka, RunningPostgres, start_postgres
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import PaymentSucceeded
from libs.contracts.topics import PARTITIONS, TOPIC_OF, topics_consumed_by
from libs.db.pool import Database
from libs.deploy import deploy_postgres
from libs.ids import new_id
from libs.messaging.apply import RETRIED, Applier
from libs.messaging.create_topics import create_topics
from libs.messaging.fence import create_fences
from libs.messaging.records import TYPE_HEADER, Record, decode
from libs.testing.databases import TestDatabase, with_database
from services.ledger.handlers import HANDLERS
from tests.conftest import ROOT, story_seed
from tests.services.ledger.facts import START

LONG = os.environ.get("SLUICE_CHAOS") == "long"
PAYMENTS, KILLS, OTHER_BLOWS = (100_000, 50, 11) if LONG else (1_500, 4, 1)
TENANTS, ACCOUNTS = 12, 20
HAUNTED = 3
"""Tenants whose payments the zombies book as well."""
AGAIN_SHARE = 0.1
STRIKES_WITHIN_SECONDS = 1.5 if LONG else 0.5
FROZEN_SECONDS = 9.0
"""Longer than Kafka waits for a member: its partitions are somebody else's when it goes on."""
PATIENCE_SECONDS = 300.0
SHORT_SEED = 20_260_112
PEPPER = base64.b64encode(bytes(32)).decode()

TOLD = TOPIC_OF[PaymentSucceeded].name
POSTED = TOPIC_OF[JournalEntryPosted].name
DEADLY = {"kill 0": 5, "kill 1": 4, "postgres": 5}
"""kill -9 of a replica and of Postgres, by how often."""
OTHER = {"leave 1": 2, "freeze 0": 1}
"""A replica that ends in good order, one that freezes; they come on top of the kills."""
SHORT_BLOWS = ["kill 0", "postgres", "leave 1", "kill 1", "kill 0"]

pytestmark = [pytest.mark.flow, pytest.mark.timeout(5_400 if LONG else 900)]
"""Longer than one step's patience: what hangs is then told with the logs of the replicas."""


@dataclass
class Replica:
    """`python -m services.ledger.app` in a slot of its own."""

    slot: int
    dsn: str
    kafka: str
    log: Path
    port: int = field(default_factory=scratch_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it becomes ready by itself."""
        environment = {
            "PATH": os.environ["PATH"],
            "SLUICE_LEDGER_PORT": str(self.port),
            "SLUICE_LEDGER_POSTGRES": self.dsn,
            "SLUICE_KAFKA": self.kafka,
            "SLUICE_KEY_PEPPER": PEPPER,
            "SLUICE_LOG_LEVEL": "warning",
            "SLUICE_SLOT": str(self.slot),
        }
        command = [sys.executable, "-m", "services.ledger.app"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait."""
        assert self.process is not None
        self.send(number)
        await asyncio.to_thread(self.process.wait, 60)


@dataclass
class Teller:
    """Tells of payments on Kafka, as stripe_sync would; a tenth of them again, now or later.

    Attributes:
        expected: the amount of each payment, by tenant and source key.
        haunted: records of the tenants that the zombies work for.
        records: how many records were told.
    """

    producer: AIOKafkaProducer
    rng: random.Random
    tenants: list[UUID] = field(default_factory=lambda: [new_id() for _ in range(TENANTS)])
    expected: dict[tuple[UUID, str], int] = field(default_factory=dict)
    haunted: list[Record] = field(default_factory=list)
    records: int = 0
    _last_seq: Counter[UUID] = field(default_factory=Counter)
    _told: list[Envelope[Any]] = field(default_factory=list)

    async def tell(self, payments: int) -> None:
        """Tell of so many payments more, and wait until Kafka has them."""
        sent = []
        for event in self._draw(payments):
            key, value = str(event.tenant_id).encode(), event.model_dump_json().encode()
            headers = [(TYPE_HEADER, event.type.encode())]
            sent.append(await self.producer.send(TOLD, value, key=key, headers=headers))
            if event.tenant_id in self.tenants[:HAUNTED]:
                record = Record(TOLD, 0, self.records, START, key, value, tuple(headers))
                self.haunted.append(record)
            self.records += 1
        await asyncio.gather(*sent)

    def _draw(self, payments: int) -> Iterator[Envelope[Any]]:
        for _ in range(payments):
            tenant = self.rng.choice(self.tenants)
            fact = _payment(f"acct_{self.rng.randrange(ACCOUNTS)}", self.rng.randrange(1, 10**6))
            self.expected[tenant, f"payment:{fact.account}:{fact.stripe_charge_id}"] = (
                fact.amount_minor
            )
            self._told.append(self._event(tenant, fact))
            yield self._told[-1]
            if self.rng.random() < AGAIN_SHARE:
                again = self.rng.choice(self._told)
                anew = self.rng.random() < 0.5
                yield self._event(again.tenant_id, again.data) if anew else again

    def _event(self, tenant: UUID, fact: PaymentSucceeded) -> Envelope[Any]:
        self._last_seq[tenant] += 1
        event = wrap(fact, tenant_id=tenant, mode="test", source="stripe_sync", effective_at=START)
        return event.model_copy(update={"stream_seq": self._last_seq[tenant]})


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


@dataclass
class World:
    """The ledger's Postgres, its two replicas, and what comes from Kafka."""

    postgres: RunningPostgres
    ledger: Database
    replicas: list[Replica]
    teller: Teller
    starts: dict[TopicPartition, int]

    async def strike(self, blow: str) -> None:
        """Do harm, and set what was struck going again."""
        match blow.split():
            case ["postgres"]:
                await asyncio.to_thread(self.postgres.kill9)
                await asyncio.to_thread(self.postgres.start_again)
            case ["freeze", slot]:
                self.replicas[int(slot)].send(signal.SIGSTOP)
                await asyncio.sleep(FROZEN_SECONDS)
                self.replicas[int(slot)].send(signal.SIGCONT)
            case [kind, slot]:
                deadly = signal.SIGKILL if kind == "kill" else signal.SIGTERM
                await self.replicas[int(slot)].end(deadly)
                self.replicas[int(slot)].start()

    async def read(self) -> int:
        """How many of the records that were told the service has behind it."""
        places = [place for place in self.starts if place.topic == TOLD]
        async with self.ledger.transaction() as tx:
            stands: int = await tx.fetchval(
                "select coalesce(sum(next_offset), 0)::bigint from fence "
                "where consumer = 'ledger' and topic = $1",
                TOLD,
            )
        return stands - sum(self.starts[place] for place in places)

    async def unsent(self) -> int:
        """Events that are not on Kafka yet."""
        async with self.ledger.maintenance() as tx:
            count: int = await tx.fetchval("select count(*) from outbox where sent_at is null")
        return count

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something that must come true, whoever is down meanwhile.

        A replica that has ended by itself is started again, as its supervisor would.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for each in self.replicas:
                if each.process is not None and each.process.poll() is not None:
                    each.start()
            try:
                if await condition():
                    return
            except RETRIED:
                pass
            await asyncio.sleep(0.05)
        shown = "\n".join(each.log.read_text()[-2_000:] for each in self.replicas)
        raise AssertionError(f"{what} did not happen within {PATIENCE_SECONDS:.0f} s:\n{shown}")


async def haunt(name: str, dsn: str, teller: Teller, rng: random.Random) -> None:
    """Book what was told, like a worker that lost its partitions and does not know; until cancelled."""
    applier, at = Applier(name, HANDLERS), 0
    async with TestDatabase(dsn).open("ledger") as ledger:
        while True:
            batch = teller.haunted[at : at + rng.randrange(1, 60)]
            try:
                async with ledger.transaction() as tx:
                    await applier.apply(tx, batch)
                at += len(batch)
            except RETRIED:
                pass
            await asyncio.sleep(0 if batch else 0.05)


async def ends_of(kafka: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Where these topics end now."""
    probe = AIOKafkaConsumer(bootstrap_servers=kafka)
    await probe.start()
    try:
        places = [TopicPartition(topic, each) for topic in topics for each in range(PARTITIONS)]
        return dict(await probe.end_offsets(places))
    finally:
        await probe.stop()


@asynccontextmanager
async def books(folder: Path) -> AsyncGenerator[tuple[RunningPostgres, TestDatabase], None]:
    """A Postgres with the ledger in it, which may be killed."""
    server = start_postgres(folder)
    try:
        database = TestDatabase(server.dsn)
        # Whoever verifies the books looks the tenants' names up.
        services = ("ledger", "tenants")
        dsns = {name: with_database(server.dsn, "x", user=f"sluice_{name}") for name in services}
        await deploy_postgres(server.dsn, dsns, services)
        yield server, database
    finally:
        server.stop()


@asynccontextmanager
async def world(folder: Path, kafka: str, rng: random.Random) -> AsyncGenerator[World, None]:
    """Everything at work, from where Kafka's topics end now."""
    await create_topics(kafka)
    consumed = [topic.name for topic in topics_consumed_by("ledger")]
    starts = await ends_of(kafka, [*consumed, POSTED])
    async with AsyncExitStack() as stack:
        postgres, database = await stack.enter_async_context(books(folder / "ledger-chaos"))
        ledger = await stack.enter_async_context(database.open("ledger"))
        async with ledger.transaction() as tx:
            await create_fences(
                tx, "ledger", {p: at for p, at in starts.items() if p.topic != POSTED}
            )
        producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True, linger_ms=5)
        await stack.enter_async_context(producer)
        dsn = database.dsn("ledger")
        replicas = [
            Replica(slot, dsn, kafka, folder / f"ledger-chaos-{slot}.log") for slot in range(2)
        ]
        teller = Teller(producer, rng)
        async with asyncio.TaskGroup() as group:
            zombies = [
                group.create_task(haunt(name, database.admin_dsn, teller, random.Random(name)))
                for name in ("first zombie", "second zombie")
            ]
            try:
                for each in replicas:
                    each.start()
                yield World(postgres, ledger, replicas, teller, starts)
            finally:
                for zombie in zombies:
                    zombie.cancel()
                for each in replicas:
                    await each.end(signal.SIGTERM)
        await forget(kafka)


async def forget(kafka: str) -> None:
    """Delete what was told and posted: other tests read the same topics from their beginning."""
    ends = await ends_of(kafka, [TOLD, POSTED])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records({p: RecordsToDelete(before_offset=at) for p, at in ends.items()})
    finally:
        await admin.close()


async def posted(kafka: str, starts: dict[TopicPartition, int]) -> list[Envelope[Any]]:
    """Every JournalEntryPosted that is on Kafka since."""
    ends = {p: at for p, at in (await ends_of(kafka, [POSTED])).items() if at > starts[p]}
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(list(ends))
        for place in ends:
            consumer.seek(place, starts[place])
        found: list[Envelope[Any]] = []
        while ends:
            for place, messages in (await consumer.getmany(*ends, timeout_ms=1_000)).items():
                found += [event for each in messages if (event := decode(each))]
                if await consumer.position(place) >= ends[place]:
                    del ends[place]
    finally:
        await consumer.stop()
    return found


def drawn(rng: random.Random) -> list[str]:
    """What strikes in a long round, in which order: so many kills, and the others between them."""
    kills = rng.choices(list(DEADLY), list(DEADLY.values()), k=KILLS)
    others = rng.choices(list(OTHER), list(OTHER.values()), k=OTHER_BLOWS)
    return rng.sample([*kills, *others], KILLS + OTHER_BLOWS)


async def test_every_payment_is_booked_once_whatever_is_killed(
    scratch: Path, kafka_server: RunningKafka
) -> None:
    rng = random.Random(story_seed() if LONG else SHORT_SEED)
    blows = drawn(rng) if LONG else SHORT_BLOWS
    assert sum(blow in DEADLY for blow in blows) == KILLS
    async with world(scratch, kafka_server.bootstrap, rng) as running:
        teller = running.teller
        each = PAYMENTS // (len(blows) + 1)
        for blow in blows:
            before = teller.records

            async def has_moved(told: int = before) -> bool:
                return await running.read() >= told

            telling = asyncio.create_task(teller.tell(each))
            await asyncio.sleep(rng.uniform(0, STRIKES_WITHIN_SECONDS))
            await running.strike(blow)
            await telling
            await running.until(f"progress after {blow}", has_moved)
        await teller.tell(PAYMENTS - len(teller.expected))

        async def is_at_rest() -> bool:
            return await running.read() == teller.records and not await running.unsent()

        await running.until("rest", is_at_rest)
        told = await posted(kafka_server.bootstrap, running.starts)
        async with TestDatabase(running.postgres.dsn).admin() as admin:
            await check_the_books(admin, teller)
            await check_what_was_posted(admin, told, teller)
    print(
        f"{len(teller.expected)} payments in {teller.records} records, struck by {Counter(blows)}"
    )


async def check_the_books(admin: asyncpg.Connection, teller: Teller) -> None:
    """Every payment stands in its tenant's book once, with its amount; each book holds in itself."""
    rows = await admin.fetch(
        "select e.tenant_id, e.source_key, p.amount_minor from ledger.journal_entry e "
        "join ledger.posting p on p.entry_id = e.id and p.side = 'debit'"
    )
    booked = {(row["tenant_id"], row["source_key"]): row["amount_minor"] for row in rows}
    assert len(rows) == len(booked), "a payment is booked twice"
    assert booked == teller.expected
    proof = LedgerProof(admin)
    for book in await proof.books(None, {}):
        assert (await proof.check(book, {}, lambda _: None)).faults == []
    for table in ("parked_record", "dead_letter", "consumer_stop"):
        assert await admin.fetchval(f"select count(*) from ledger.{table}") == 0


async def check_what_was_posted(
    admin: asyncpg.Connection, told: list[Envelope[Any]], teller: Teller
) -> None:
    """Every entry was told by one event, and no number of a stream is missing or given twice."""
    events: dict[UUID, set[UUID]] = defaultdict(set)
    numbers: dict[UUID, dict[int, UUID]] = defaultdict(dict)
    for event in told:
        events[event.data.entry_id].add(event.id)
        assert numbers[event.tenant_id].setdefault(event.stream_seq or 0, event.id) == event.id
    ids = {row["id"] for row in await admin.fetch("select id from ledger.journal_entry")}
    assert {entry: len(of) for entry, of in events.items()} == dict.fromkeys(ids, 1)
    for tenant in teller.tenants:
        assert sorted(numbers[tenant]) == list(range(1, len(numbers[tenant]) + 1))
