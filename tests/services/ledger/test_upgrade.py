"""Books of the version before chains: they get theirs, and nobody who is booking is refused."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from ledger.facts import START, faults, transfer
from libs.db import migrate
from libs.db.migrate import ensure_service_role, password_of, service_migrations
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import store
from services.ledger.entries import Entry

BEFORE = ("ledger/0001_create_books.sql", "ledger/0002_create_statements.sql")
BOTH = ("platform", "tenant")


async def open_as_before(tx: Tx, *entries: Entry) -> None:
    """The first half of booking: accounts."""
    accounts = {(tx.tenant_id, each.book, line.account) for each in entries for line in each.lines}
    await store.open_accounts(tx, accounts)


async def post_as_before(tx: Tx, *entries: Entry) -> None:
    """The second half, in the words of the version before: no word of reversals."""
    ids = [new_id() for _ in entries]
    lines = [
        (entry_id, line) for entry_id, each in zip(ids, entries, strict=True) for line in each.lines
    ]
    columns: list[list[Any]] = [
        [tx.tenant_id for _ in ids],
        [each.book for each in entries],
        list[Any](ids),
        [each.source_key for each in entries],
        [each.content_hash for each in entries],
        [START for _ in ids],
        [START for _ in ids],
        list[Any](ids),
        [each.rule for each in entries],
        [each.rule_version for each in entries],
        [entry_id for entry_id, _ in lines],
        [line.account.code for _, line in lines],
        [line.side for _, line in lines],
        [line.amount_minor for _, line in lines],
        [line.currency for _, line in lines],
    ]
    places = ", ".join(f"${place + 1}" for place in range(len(columns)))
    await tx.fetch(f"select post_entries({places})", *columns)


async def book_as_before(ledger: Database, tenant_id: UUID, *entries: Entry) -> None:
    async with ledger.tenant(tenant_id, "test", books=BOTH) as tx:
        await open_as_before(tx, *entries)
        await post_as_before(tx, *entries)


async def is_waiting(admin: Any) -> bool:
    return bool(await admin.fetchval("select exists (select from pg_locks where not granted)"))


async def test_books_of_before_are_chained_while_somebody_books(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = new_id(), new_id()
    everything = service_migrations("ledger")
    known = [each for each in everything if each.name.startswith("core/") or each.name in BEFORE]
    assert len(known) < len(everything)
    async with database.admin() as admin, database.admin() as watch:
        await admin.execute("drop schema ledger cascade")
        await ensure_service_role(admin, "ledger", password_of(database.dsn("ledger")))
        monkeypatch.setattr(migrate, "service_migrations", lambda _: known)
        await migrate.migrate(admin, "ledger")
        monkeypatch.setattr(migrate, "service_migrations", service_migrations)
        async with database.open("ledger") as ledger:
            for tenant_id in (acme, globex):
                await book_as_before(ledger, tenant_id, transfer(1, "a"), transfer(2, "b"))
            async with ledger.tenant(acme, "test", books=BOTH) as tx:
                await open_as_before(tx, transfer(3, "c"))
                upgrade = asyncio.create_task(migrate.migrate(admin, "ledger"))
                while not await is_waiting(watch):
                    assert not upgrade.done()
                    await asyncio.sleep(0.01)
                late = asyncio.create_task(book_as_before(ledger, globex, transfer(4, "d")))
                await post_as_before(tx, transfer(3, "c"))
            assert "ledger/0003_chain_entries.sql" in await upgrade
            await late
            await book_as_before(ledger, acme, transfer(1, "a"), transfer(5, "e"))
        rows = await admin.fetch(
            "select source_key, chain_seq from ledger.journal_entry where tenant_id = $1 "
            "order by chain_seq",
            acme,
        )
    assert [tuple(row) for row in rows] == [("a", 1), ("b", 2), ("c", 3), ("e", 4)]
    assert await faults(database) == []
