"""A book is verified page by page over several connections, all of one moment, while others book."""

import functools
import itertools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from cli import ledger_proof
from cli.ledger_proof import LedgerProof
from ledger.facts import book, faults, transfer
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase

BOTH = ("platform", "tenant")
ENTRY = "tenant_id = $1 and book = 'platform' and chain_seq = $2"
KEY = f"update journal_entry set source_key = 'x' where {ENTRY}"
HASH = f"update journal_entry set chain_hash = sha256('x') where {ENTRY}"
GONE = (
    f"with e as (delete from journal_entry where {ENTRY} returning id) "
    "delete from posting p using e where p.entry_id = e.id"
)


@dataclass
class Interrupted:
    """A connection before each of whose statements somebody else books."""

    connection: Any
    book_meanwhile: Callable[[], Awaitable[None]]

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self.connection, name)
        if name == "transaction":
            return asked

        async def ask(*args: Any) -> Any:
            await self.book_meanwhile()
            return await asked(*args)

        return ask


async def test_tampering_where_pages_meet_shows_while_somebody_books(
    ledger: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven entries, three to a page, each wrong one is named; of a sound book, nothing is said."""
    for limit, least in (("PAGE_ENTRIES", 3), ("PAGE_ACCOUNTS", 1), ("PAGE_POSTINGS", 2)):
        monkeypatch.setattr(ledger_proof, limit, least)
    numbers = itertools.count(1)

    async def book_more(tenant_id: UUID, entries: int = 1) -> None:
        async with ledger.tenant(tenant_id, "test", books=BOTH) as tx:
            await book(tx, *(transfer(5, f"k{next(numbers)}") for _ in range(entries)))

    async def found(tenant_id: UUID) -> list[str]:
        meanwhile = functools.partial(book_more, tenant_id)
        proof = LedgerProof(Interrupted(first, meanwhile), Interrupted(second, meanwhile))
        (of_tenant,) = await proof.books(str(tenant_id), {})
        return (await proof.check(of_tenant, {}, lambda _: None)).faults

    async with database.admin() as first, database.admin() as second:
        await first.execute("set search_path = ledger; set session_replication_role = replica")
        sound = new_id()
        await book_more(sound, 7)
        assert await found(sound) == []
        for tampering, seq, named in (
            (KEY, 3, {3}),
            (KEY, 4, {4}),
            (KEY, 7, {7}),
            (GONE, 1, {2}),
            (GONE, 3, {4}),
            (GONE, 4, {5}),
            (GONE, 6, {7}),
            (HASH, 3, {3, 4}),
            (HASH, 4, {4, 5}),
            (HASH, 6, {6, 7}),
        ):
            tenant_id = new_id()
            await book_more(tenant_id, 7)
            assert await first.execute(tampering, tenant_id, seq) in ("UPDATE 1", "DELETE 2")
            wrong = {
                int(entry)
                for fault in await found(tenant_id)
                for entry in re.findall(r"^entry (\d+): ", fault)
            }
            assert wrong == named, (tampering, seq)
        assert next(numbers) > 11 * 7 + 50, "somebody booked meanwhile"
    assert await faults(database, None, sound) == []
