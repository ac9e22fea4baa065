"""What one caller cannot have is no other one's loss: tries again, tenants and dependents by themselves."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from ledger.callers import Api
from ledger.facts import START, Tenant, assert_sound, transfer
from ledger.test_coalescing import command, held, keys, waits_for_the_lock
from ledger.test_posting_api import entries_of, in_book, sale
from libs.contracts.ledger import Book
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.testing.databases import TestDatabase
from services.ledger import bounds, chart, coalescing, commands, posting
from services.ledger.bounds import Bounds
from services.ledger.coalescing import Coalescer, LineFullError
from services.ledger.commands_asked import Group
from services.ledger.entries import Entry, credit, debit
from services.ledger.store import Booking
from services.ledger.store_bounds import OverrunError

EMPTY = Entry("platform", "api:k", "posted", ())
"""The database refuses it."""


def overrun(key: str) -> Entry:
    """Takes credit that nobody has."""
    lines = (
        debit(chart.CUSTOMER_CREDITS, 7, "EUR"),
        credit(chart.BANK, 7, "EUR"),
    )
    return Entry("platform", f"api:{key}", "posted", lines)


async def bounded(ledger: Database, tenant: Tenant) -> None:
    """The tenant's credit is never less than nothing."""
    async with ledger.tenant(tenant.id, "test", books=("platform",)) as tx:
        account = chart.CUSTOMER_CREDITS.code
        await bounds.put(tx, "platform", account, "EUR", Bounds(0, None), actor="key_x", now=START)


@pytest.mark.parametrize(
    "error", [asyncpg.DeadlockDetectedError, asyncpg.SerializationError], ids=lambda e: e.__name__
)
async def test_a_commit_that_postgres_gave_up_is_tried_again(
    api: Api,
    database: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
    error: type[asyncpg.PostgresError],
) -> None:
    book, calls = posting.book_in_open, 0

    async def fails_once(tx: Tx, bookings: Sequence[Booking], **how: Any) -> list[Booking]:
        nonlocal calls
        calls += 1
        booked = await book(tx, bookings, **how)
        if calls == 1:
            raise error("planted")
        return booked

    monkeypatch.setattr(posting, "book_in_open", fails_once)
    bodies = [in_book(sale(f"k{at}")) for at in range(5)]
    answers = await asyncio.gather(*(api.post("entries", api.poster, body) for body in bodies))
    assert {answer.status_code for answer in answers} == {201}
    assert "idempotent-replayed" not in answers[0].headers
    calls = 0
    keyed = {"Idempotency-Key": "once"}
    answer = await api.post("entries", api.poster, in_book(sale("k5")), keyed)
    assert (answer.status_code, calls) == (201, 2), "also by itself, under a key of HTTP's"
    assert await entries_of(database) == [f"api:k{at}" for at in range(6)]
    await assert_sound(database)


async def test_it_is_not_tried_without_end(
    ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def fails(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        raise asyncpg.DeadlockDetectedError("planted")

    monkeypatch.setattr(posting, "book_in_open", fails)
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await Coalescer(ledger).post([command(Tenant(), "k")])
    assert calls == coalescing.TRIES_MAX


async def test_a_tenant_whose_entries_overrun_keeps_nobody_waiting(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = Tenant(), Tenant()
    await bounded(ledger, acme)
    coalescer = Coalescer(ledger)
    post, commits = commands.post, 0

    async def counted(*args: object, **named: object) -> object:
        nonlocal commits
        commits += 1
        return await post(*args, **named)  # type: ignore[arg-type]

    book, tries = posting.book_in_open, 0

    async def tried(tx: Tx, bookings: Sequence[Booking], **how: Any) -> list[Booking]:
        nonlocal tries
        tries += bool(bookings)
        return await book(tx, bookings, **how)

    monkeypatch.setattr(posting, "book_in_open", tried)
    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        monkeypatch.setattr(commands, "post", counted)
        bad = [
            asyncio.create_task(coalescer.post([command(acme, f"a{at}", overrun(f"a{at}"))]))
            for at in range(200)
        ]
        good = asyncio.create_task(coalescer.post([command(globex, "b")]))
        own = asyncio.create_task(coalescer.post([command(acme, "good")]))
        await asyncio.sleep(0)
    assert (await good)[0].is_new
    assert (commits, tries) == (2, 5), "the first; the two together; again, then each by itself"
    assert not any(each.done() for each in bad)
    # Also while they are looked at one by one nobody waits for more than a few of them.
    assert (await coalescer.post([command(globex, "c")]))[0].is_new
    assert sum(each.done() for each in bad) <= coalescing.APART_MAX
    assert (await own)[0].is_new
    outcomes = await asyncio.gather(*bad, return_exceptions=True)
    assert {type(each) for each in outcomes} == {OverrunError}
    await first
    assert await entries_of(database) == ["api:b", "api:c", "api:first", "api:good"]
    await assert_sound(database)


async def test_what_fails_at_the_commit_fails_for_its_tenant(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = Tenant(), Tenant()
    post = commands.post

    async def fails(tx: Tx, book: Book, groups: Sequence[Group], **how: str) -> object:
        if any(each.entry.source_key == "api:a3" for group in groups for each in group):
            raise ValueError("planted")
        return await post(tx, book, groups, **how)

    monkeypatch.setattr(commands, "post", fails)
    coalescer = Coalescer(ledger)
    outcomes = await asyncio.gather(
        *(coalescer.post([command(acme, f"a{at}")]) for at in range(5)),
        *(coalescer.post([command(globex, f"b{at}")]) for at in range(5)),
        return_exceptions=True,
    )
    failed = [at for at, each in enumerate(outcomes) if isinstance(each, BaseException)]
    assert failed == [3]
    assert len(await entries_of(database)) == 9


async def test_postings_count_as_well_as_entries(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "POSTINGS_WAITING_MAX", 10)
    monkeypatch.setattr(coalescing, "POSTINGS_WAITING_PER_TENANT_MAX", 6)
    monkeypatch.setattr(coalescing, "POSTINGS_TOGETHER_MAX", 4)
    acme, globex = Tenant(), Tenant()
    coalescer = Coalescer(ledger)
    async with held(ledger, acme):
        first = asyncio.create_task(coalescer.post([command(acme, "first")]))
        await waits_for_the_lock(database)
        # Of two postings each.
        others = [
            asyncio.create_task(coalescer.post([command(tenant, f"k{at}")]))
            for at, tenant in enumerate([acme] * 4 + [globex] * 3)
        ]
        await asyncio.sleep(0)
        assert [each.done() for each in others] == [False] * 3 + [True, False, False, True]
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert keys(outcomes) == ["api:first", "api:k0", "api:k1", "api:k2", "api:k4", "api:k5"]
    assert [type(outcomes[at]) for at in (4, 7)] == [LineFullError] * 2
    async with database.admin() as admin:
        commits = await admin.fetch(
            "select count(*) as entries from ledger.journal_entry group by xmin order by 1"
        )
    assert [row["entries"] for row in commits] == [1, 1, 2, 2]
    assert keys([await coalescer.post([command(acme, "k3")])]) == ["api:k3"]


async def test_who_asks_for_what_another_one_could_not_have_is_judged_by_itself(
    ledger: Database, database: TestDatabase
) -> None:
    """Also where the other one failed for the rest of what it asked for, or asked for other words."""
    acme = Tenant()
    empty = Entry("platform", "api:empty", "posted", ())
    groups = [
        [command(acme, "k"), command(acme, "empty", empty)],
        [command(acme, "k")],
        [command(acme, "x", EMPTY)],
        [command(acme, "k"), command(acme, "more")],
        [command(acme, "more", transfer(6, "api:more"))],
        [command(acme, "both", empty), command(acme, "last")],
        [command(acme, "last"), command(acme, "k", transfer(9, "api:k"))],
        [command(acme, "last")],
    ]
    async with ledger.transaction(Scope((acme.id,), "test", ("platform",))) as tx:
        verdicts = await commands.post(tx, "platform", groups)
    assert [type(each).__name__ for each in verdicts] == [
        "UnknownPostgresError",
        "list",
        "OtherContentError",
        "list",
        "OtherContentError",
        "UnknownPostgresError",
        "OtherContentError",
        "list",
    ]
    booked = [each for each in verdicts if isinstance(each, list)]
    assert [[posted.is_new for posted in each] for each in booked] == [
        [True],
        [False, True],
        [True],
    ]
    assert await entries_of(database) == ["api:k", "api:last", "api:more"]
    await assert_sound(database)
