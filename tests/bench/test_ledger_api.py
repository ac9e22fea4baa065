"""How soon the posting API answers sixteen callers, against what everyone writes by hand.

`make bench-ledger` prints the rows for docs/benchmarks.md. Four ways take turns, each with sixteen
callers that post single entries of two postings as fast as they are answered:

- five statements: a transaction of its own per entry over sixteen connections, with a key, postings,
  two balances and an outbox row, and nothing else: no chain, no numbers of postings, no row-level
  security, no checks, and no HTTP;
- API: requests over HTTP to the service's process, Kafka beside it;
- coalesced: what the API does below HTTP, in this process, all guarantees in place;
- one by one: the same, but each entry in a transaction of its own over sixteen connections.

After each round the books are verified as `sluice ledger verify` does.
"""

import asyncio
import base64
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from cli.ledger_proof import LedgerProof
from deploy.local.scratch import RunningKafka, RunningPostgres
from libs.clock import utc_now
from libs.crypto import apikeys
from libs.db.pool import Database, open_database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.messaging.create_topics import create_topics
from libs.testing.databases import TestDatabase
from services.ledger import chart, commands, store
from services.ledger.coalescing import Coalescer
from services.ledger.commands_asked import KEY_SPACE, POST_RULE, Command
from services.ledger.entries import Entry, Line
from tests.bench.load import Measured, as_fast_as_it_goes
from tests.bench.processes import cpu_seconds, tree
from tests.services.gateway.conftest import PEPPER, enrol
from tests.services.gateway.process import ROOT, STARTS_SECONDS, free_port

ROUNDS = int(os.environ.get("SLUICE_BENCH_ROUNDS") or 1)
SECONDS = 3.0 if ROUNDS > 1 else 1.0
CALLERS = 16
TENANTS, ACCOUNTS = 20, 200
SHARE_GOAL, P99_MS_GOAL = 8.0, 30

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

NAIVE = """
create table naive_entry (like ledger.journal_entry including indexes);
create table naive_posting (like ledger.posting including indexes);
create table naive_balance (like ledger.account_balance including indexes);
create table naive_outbox (like ledger.outbox including indexes including identity including defaults);
alter table naive_posting alter balance_after_minor drop not null;
alter table naive_entry alter chain_seq drop not null, alter chain_hash drop not null;
"""


@dataclass(frozen=True)
class Wanted:
    """An entry of two postings on random accounts of a random tenant."""

    tenant_id: UUID
    key: str
    accounts: tuple[str, str]
    amount_minor: int


class Workload:
    """Entries without end, each with a key of its own; and the tenants' API keys."""

    def __init__(self) -> None:
        self.tenants = [new_id() for _ in range(TENANTS)]
        self.keys: dict[UUID, str] = {}
        self._chance = random.Random(1)
        self._number = itertools.count()

    def __iter__(self) -> "Workload":
        return self

    def __next__(self) -> Wanted:
        one, other = self._chance.sample(range(ACCOUNTS), 2)
        return Wanted(
            self._chance.choice(self.tenants),
            f"k{next(self._number)}",
            (f"asset:own:a{one}", f"asset:own:a{other}"),
            self._chance.randrange(1, 10**6),
        )

    async def enrol(self, ledger: Database) -> None:
        """Tenants with a key and accounts."""
        for number, tenant_id in enumerate(self.tenants):
            key = apikeys.generate("test")
            self.keys[tenant_id] = key.key
            await enrol(ledger, tenant_id, f"t{number}", key, scopes=("ledger:post",))
            async with ledger.tenant(tenant_id, "test", books=("tenant",)) as tx:
                await store.open_accounts(
                    tx,
                    [
                        (tenant_id, "tenant", chart.own("asset", f"a{account}"))
                        for account in range(ACCOUNTS)
                    ],
                )

    def requests(self, port: int, number: int) -> Iterator[bytes]:
        """So many HTTP requests, made now."""
        return iter([self._request(port, next(self)) for _ in range(number)])

    def _request(self, port: int, wanted: Wanted) -> bytes:
        postings = [
            {"account": account, "side": side, "amount_minor": wanted.amount_minor}
            | {"currency": "EUR"}
            for account, side in zip(wanted.accounts, ("debit", "credit"), strict=True)
        ]
        body = json.dumps({"book": "tenant", "source_key": wanted.key, "postings": postings})
        head = (
            f"POST /api/v1/ledger/entries HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
            f"x-api-key: {self.keys[wanted.tenant_id]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode()


def command(wanted: Wanted) -> Command:
    """The command that a request becomes."""
    one, other = map(chart.named, wanted.accounts)
    lines = (
        Line(one, "debit", wanted.amount_minor, "EUR"),
        Line(other, "credit", wanted.amount_minor, "EUR"),
    )
    return Command(
        tenant_id=wanted.tenant_id,
        mode="test",
        entry=Entry("tenant", KEY_SPACE + wanted.key, POST_RULE, lines),
        effective_at=utc_now(),
        is_dated=False,
        metadata={},
        actor="key_bench",
    )


async def measure(post: Callable[[], Awaitable[None]]) -> Measured:
    """Sixteen callers, each with its next entry as soon as the one before is answered."""
    measured = Measured()
    started = time.perf_counter()

    async def one() -> None:
        while (since := time.perf_counter()) - started < SECONDS:
            await post()
            measured.note(201, time.perf_counter() - since)

    await asyncio.gather(*(one() for _ in range(CALLERS)))
    measured.lasted_seconds = time.perf_counter() - started
    return measured


async def five_statements(connection: Any, wanted: Wanted) -> None:
    """As everyone writes it."""
    now, entry_id = utc_now(), new_id()
    place = (wanted.tenant_id, "test", "tenant")
    async with connection.transaction():
        await connection.execute(
            "insert into naive_entry (tenant_id, mode, book, id, source_key, content_hash, "
            "effective_at, booked_at, causation_id, rule, rule_version) "
            "values ($1, $2, $3, $4, $5, sha256('x'), $6, $6, $4, 'x', 1)",
            *place,
            entry_id,
            wanted.key,
            now,
        )
        for account, debit, credit in sorted(
            zip(wanted.accounts, (wanted.amount_minor, 0), (0, wanted.amount_minor), strict=True)
        ):
            await connection.execute(
                "insert into naive_balance as b values ($1, $2, $3, $4, 'EUR', $5, $6, 1) "
                "on conflict (tenant_id, mode, book, account, currency) do update set "
                "debit_minor = b.debit_minor + $5, credit_minor = b.credit_minor + $6, "
                "last_seq = b.last_seq + 1",
                *place,
                account,
                debit,
                credit,
            )
        await connection.execute(
            "insert into naive_posting (tenant_id, mode, book, account, currency, account_seq, "
            "entry_id, line, side, amount_minor, effective_at, booked_at) "
            "select $1, $2, $3, a, 'EUR', nextval('naive_number'), $4, n, s, $5, $6, $6 "
            "from unnest($7::text[], array['debit', 'credit']) with ordinality as u(a, s, n)",
            *place,
            entry_id,
            wanted.amount_minor,
            now,
            list(wanted.accounts),
        )
        await connection.execute(
            "insert into naive_outbox (tenant_id, mode, topic, event_id, event_type, payload, "
            "headers, shard) values ($1, $2, $3, $4, 'x', $5, '{}', 0)",
            *place[:2],
            "ledger.entries",
            entry_id,
            "x" * 600,
        )


@dataclass
class LedgerProcess:
    """`python -m services.ledger.app` over a database of the test's own."""

    database: TestDatabase
    folder: Path
    kafka: str
    port: int

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start it."""
        environment = {
            "PATH": os.environ["PATH"],
            "SLUICE_LEDGER_PORT": str(self.port),
            "SLUICE_LEDGER_POSTGRES": self.database.dsn("ledger"),
            "SLUICE_KAFKA": self.kafka,
            "SLUICE_KEY_PEPPER": base64.b64encode(PEPPER).decode(),
            "SLUICE_LOG_LEVEL": "warning",
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "services.ledger.app"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> Path:
        """What it wrote to stdout and stderr."""
        return self.folder / "ledger.log"

    async def is_ready(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until it is."""
        async with asyncio.timeout(STARTS_SECONDS), httpx.AsyncClient() as client:
            while True:
                assert process.poll() is None, self.log.read_text()[-2000:]
                try:
                    if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.2)


@dataclass
class Figures:
    """What a way came to, round by round.

    Attributes:
        rates: entries per second.
        shares: rates over that of the five statements in the same round.
        seconds: of each entry.
        cpu_seconds: of everything that took part but Kafka and the sender of requests.
    """

    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def row(self, way: str) -> str:
        """For docs/benchmarks.md."""
        measured = Measured(self.seconds)
        return (
            f"| {way} | {statistics.median(self.rates):,.0f} | {statistics.median(self.shares):.2f} "
            f"| {measured.percentile_ms(0.5):.1f} | {measured.percentile_ms(0.99):.1f} "
            f"| {self.cpu_seconds * 1000 / len(self.seconds):.2f} |"
        )


def cpu_seconds_below(pid: int) -> float:
    """The processor time of a process and its children; one that ends is in its parent's."""
    while True:
        try:
            return sum(map(cpu_seconds, tree(pid)))
        except FileNotFoundError:
            continue


async def assert_books_hold(admin: asyncpg.Connection) -> None:
    """Recompute every book from its rows: no round may be fast because it books wrongly."""
    proof = LedgerProof(admin)
    for book in await proof.books(None, {}):
        assert (await proof.check(book, {}, lambda _: None)).faults == []


async def test_sixteen_callers(
    database: TestDatabase,
    postgres_server: RunningPostgres,
    kafka_server: RunningKafka,
    tmp_path: Path,
) -> None:
    await create_topics(kafka_server.bootstrap)
    workload = Workload()
    ledger = await open_database(database.dsn("ledger"), "ledger", max_connections=CALLERS)
    await workload.enrol(ledger)
    async with database.admin() as admin:
        await admin.execute(NAIVE)
        await admin.execute("create sequence naive_number; analyze")
    raw = await asyncpg.create_pool(database.admin_dsn, min_size=CALLERS, max_size=CALLERS)
    coalescer = Coalescer(ledger)
    served = LedgerProcess(database, tmp_path, kafka_server.bootstrap, free_port())
    process = served.launch()

    async def by_hand() -> None:
        async with raw.acquire() as connection:
            await five_statements(connection, next(workload))

    async def coalesced() -> None:
        await coalescer.post([command(next(workload))])

    async def one_by_one() -> None:
        wanted = next(workload)
        async with ledger.transaction(Scope((wanted.tenant_id,), "test", ("tenant",))) as tx:
            await commands.post(tx, "tenant", [[command(wanted)]])

    def over_http() -> Awaitable[Measured]:
        requests = workload.requests(served.port, int(SECONDS * 4_000))
        return as_fast_as_it_goes(requests, served.port, lines=CALLERS, seconds=SECONDS)

    ways: dict[str, tuple[Callable[[], Awaitable[Measured]], int]] = {
        "five statements": (partial(measure, by_hand), os.getpid()),
        "API": (over_http, process.pid),
        "coalesced": (partial(measure, coalesced), os.getpid()),
        "one by one": (partial(measure, one_by_one), os.getpid()),
    }
    figures = {way: Figures() for way in ways}
    postmaster = int((postgres_server.data / "postmaster.pid").read_text().split()[0])
    try:
        await served.is_ready(process)
        for number in range(ROUNDS + 1):
            base = 0.0
            for way, (run, pid) in ways.items():
                before = cpu_seconds(pid) + cpu_seconds_below(postmaster)
                measured = await run()
                after = cpu_seconds(pid) + cpu_seconds_below(postmaster)
                assert measured.statuses.keys() == {201}, measured.statuses
                base = base or measured.per_second
                if number == 0:
                    continue  # Caches and statistics are cold.
                figures[way].rates.append(measured.per_second)
                figures[way].shares.append(measured.per_second / base)
                figures[way].seconds += measured.seconds
                figures[way].cpu_seconds += after - before
            async with database.admin() as admin:
                await assert_books_hold(admin)
                await admin.execute("analyze")
    finally:
        process.terminate()
        process.wait(20)
        await raw.close()
        await ledger.close()
    for way, each in figures.items():
        print(each.row(way))
    print(
        f"(goals: {SHARE_GOAL} times five statements, p99 {P99_MS_GOAL} ms; "
        f"load {os.getloadavg()[0]:.0f})"
    )
