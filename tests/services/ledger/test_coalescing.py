"""Callers that come at the same time: together in one commit, in a line with an end, each by itself."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ledger.callers import Api
from ledger.facts import START, Tenant, assert_sound, transfer
from ledger.test_posting_api import entries_of, in_book, sale
from libs.contracts.ledger import JournalEntryPosted, PostEntry
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import coalescing, commands, posting, store_reversals
from services.ledger.coalescing import Coalescer, LineFullError, OverdueError
from services.ledger.commands_asked import Command, Posted
from services.ledger.entries import Entry
from services.ledger.store import Booking


def command(tenant: Tenant, key: str, entry: Entry | None = None) -> Command:
    return Command(
        tenant_id=tenant.id,
        mode="test",
        entry=entry or transfer(5, f"api:{key}"),
        effective_at=START,
        is_dated=True,
        metadata={},
        actor="key_x",
    )


@asynccontextmanager
async def held(ledger: Database, tenant: Tenant) -> AsyncGenerator[None, None]:
    """Within the block nobody books for the tenant."""
    async with ledger.tenant(tenant.id, "test", books=("platform",)) as tx:
        await store_reversals.lock_book(tx, "platform")
        yield


async def waits_for_the_lock(database: TestDatabase) -> None:
    async with database.admin() as admin, asyncio.timeout(60):
        while not await admin.fetchval(
            "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
        ):
            await asyncio.sleep(0.005)


def keys(outcomes: Sequence[Any]) -> list[str]:
    return [each[0].row["source_key"] for each in outcomes if isinstance(each, list)]


async def test_who_comes_while_others_are_booked_goes_with_the_next(
    ledger: Database, database: TestDatabase
) -> None:
    acme, globex = Tenant(), Tenant()
    coalescer = Coalescer(ledger)
    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        others = [
            asyncio.create_task(coalescer.post([command(tenant, f"k{at}")]))
            for at in range(10)
            for tenant in (acme, globex)
        ]
        await asyncio.sleep(0)
    posted = await asyncio.gather(first, *others)
    assert all(each[0].is_new for each in posted)
    async with database.admin() as admin:
        commits = await admin.fetch(
            "select count(*) as entries from ledger.journal_entry group by xmin order by 1"
        )
    assert [row["entries"] for row in commits] == [1, 20]
    await assert_sound(database)


async def test_who_is_answered_and_asks_again_goes_with_those_who_wait(
    ledger: Database, database: TestDatabase
) -> None:
    acme = Tenant()
    coalescer = Coalescer(ledger)

    async def two(name: str) -> None:
        for number in (1, 2):
            await coalescer.post([command(acme, f"{name}{number}")])

    async with held(ledger, acme):
        first = asyncio.create_task(two("first"))
        await waits_for_the_lock(database)
        others = [asyncio.create_task(two(name)) for name in "abc"]
        await asyncio.sleep(0)
    await asyncio.gather(first, *others)
    async with database.admin() as admin:
        commits = await admin.fetch(
            "select array_agg(source_key order by source_key) as keys from ledger.journal_entry "
            "group by xmin::text order by min(chain_seq)"
        )
    assert [[key.removeprefix("api:") for key in row["keys"]] for row in commits] == [
        ["first1"],
        ["a1", "b1", "c1", "first2"],
        ["a2", "b2", "c2"],
    ]
    await assert_sound(database)


async def test_who_keeps_the_process_busy_with_being_answered_is_waited_for(
    ledger: Database, database: TestDatabase
) -> None:
    acme = Tenant()
    coalescer = Coalescer(ledger)

    async def two(place: int) -> None:
        await coalescer.post([command(acme, f"k{place}.1")])
        # All answers take longer than the next commit waits; then one after the other asks again.
        time.sleep(coalescing.COMPANY_SECONDS_MAX)  # noqa: ASYNC251
        for _ in range(place):
            await asyncio.sleep(0)
        await coalescer.post([command(acme, f"k{place}.2")])

    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        others = [asyncio.create_task(two(place)) for place in range(8)]
        await asyncio.sleep(0)
    await asyncio.gather(first, *others)
    async with database.admin() as admin:
        commits = await admin.fetch(
            "select count(*) as entries from ledger.journal_entry group by xmin::text "
            "order by min(chain_seq)"
        )
    assert [row["entries"] for row in commits] == [1, 8, 8]
    await assert_sound(database)


async def test_who_asks_alone_waits_for_nobody(
    ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "COMPANY_SHARE", 1e9)
    monkeypatch.setattr(coalescing, "COMPANY_SECONDS_MAX", coalescing.WAIT_SECONDS * 2)
    acme = Tenant()
    coalescer = Coalescer(ledger)
    for number, size in enumerate((1, 1, 5, 1, 2)):
        group = [command(acme, f"k{number}.{at}") for at in range(size)]
        assert keys([await coalescer.post(group)]) == [f"api:k{number}.0"]


async def test_a_line_has_an_end_for_all_and_for_each_tenant(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "WAITING_MAX", 4)
    monkeypatch.setattr(coalescing, "WAITING_PER_TENANT_MAX", 3)
    acme, globex = Tenant(), Tenant()
    coalescer = Coalescer(ledger)
    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        tenants = [acme] * 4 + [globex] * 2
        others = [
            asyncio.create_task(coalescer.post([command(tenant, f"k{at}")]))
            for at, tenant in enumerate(tenants)
        ]
        await asyncio.sleep(0)
        assert [each.done() for each in others] == [False] * 3 + [True, False, True]
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert keys(outcomes) == ["api:first", "api:k0", "api:k1", "api:k2", "api:k4"]
    assert [type(outcomes[at]) for at in (4, 6)] == [LineFullError] * 2
    # There is room again.
    assert keys([await coalescer.post([command(acme, "k3")])]) == ["api:k3"]
    assert len(await entries_of(database)) == 6


async def test_who_waits_no_more_is_passed_over_unless_it_is_its_turn(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = Tenant()
    coalescer = Coalescer(ledger)
    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        gone = asyncio.create_task(coalescer.post([command(acme, "gone")]))
        monkeypatch.setattr(coalescing, "WAIT_SECONDS", 0.0)
        overdue = asyncio.create_task(coalescer.post([command(acme, "overdue")]))
        with pytest.raises(OverdueError):
            await overdue
        gone.cancel()
        first.cancel()
        await asyncio.gather(gone, first, return_exceptions=True)
        monkeypatch.undo()
        last = asyncio.create_task(coalescer.post([command(acme, "last")]))
        await asyncio.sleep(0)
    assert (await last)[0].is_new
    assert await entries_of(database) == ["api:first", "api:last"]
    assert not (await coalescer.post([command(acme, "first")]))[0].is_new
    await assert_sound(database)


async def test_what_the_database_refuses_fails_alone(
    ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    acme, globex = Tenant(), Tenant()
    empty = Entry("platform", "api:empty", "posted", ())
    groups = [[command(tenant, f"k{at}")] for at in range(7) for tenant in (acme, globex)]
    groups[3:3] = [[command(acme, "empty", empty)]]
    groups[9:9] = [[command(globex, "k9"), command(globex, "empty", empty)]]
    async with ledger.transaction(Scope((acme.id, globex.id), "test", ("platform",))) as tx:
        verdicts = await commands.post(tx, "platform", groups)
    failed = [at for at, each in enumerate(verdicts) if isinstance(each, Exception)]
    assert failed == [3, 9]
    assert isinstance(verdicts[3], asyncpg.PostgresError)
    await log.settle()
    assert len(log.events(PostEntry)) == len(log.events(JournalEntryPosted)) == 14
    assert len(await entries_of(database)) == 14
    await assert_sound(database)


async def test_postgres_goes_away_and_comes_back(
    api: Api, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = posting.book_in_open
    calls = 0

    async def fails_once(tx: Tx, bookings: Sequence[Booking], **how: Any) -> list[Booking]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionResetError
        return await book(tx, bookings, **how)

    monkeypatch.setattr(posting, "book_in_open", fails_once)
    bodies = [in_book(sale(f"k{at}")) for at in range(5)]
    answers = await asyncio.gather(*(api.post("entries", api.poster, body) for body in bodies))
    codes = {answer.status_code for answer in answers}
    assert codes <= {201, 503}
    assert 503 in codes
    again = await asyncio.gather(*(api.post("entries", api.poster, body) for body in bodies))
    assert {answer.status_code for answer in again} == {201}
    assert await entries_of(database) == [f"api:k{at}" for at in range(5)]
    await assert_sound(database)


async def test_a_caller_is_told_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: Exception = LineFullError()

    async def full(_self: Coalescer, _group: object) -> list[Posted]:
        raise raised

    monkeypatch.setattr(Coalescer, "post", full)
    for code in ("too_busy", "too_slow"):
        answer = await api.post("entries", api.poster, in_book(sale("k")))
        assert (answer.status_code, answer.json()["code"]) == (503, code)
        assert int(answer.headers["retry-after"]) > 0
        raised = OverdueError()
    body = {"book": "tenant", "atomic": False, "entries": [sale("k")]}
    (result,) = (await api.post("entries/batch", api.poster, body)).json()["results"]
    assert result["refusal"]["code"] == "too_slow"
