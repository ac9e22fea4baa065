"""The chain of a book: recomputable from its rows by anybody, and every change shows."""

import hashlib
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from cli.ledger_heads import Heads
from cli.ledger_proof import CONTRA_ACCOUNTS, LedgerProof
from ledger.facts import Tenant, book, faults, transfer
from libs.clock import utc_now
from libs.contracts.ledger import LedgerHeadAnchored
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import anchoring, chart, jobs
from services.ledger.settings import Settings

BOTH = ("platform", "tenant")


def micros(at: Any) -> int:
    return round(at.timestamp() * 10**6)


def expected_hash(previous: bytes, entry: Any, postings: Sequence[Any]) -> bytes:
    """An entry's hash as docs/how-to/verify-the-ledger.md says it is made."""
    source_key, rule = entry["source_key"], entry["rule"]
    lines = [
        "sluice.ledger.1",
        entry["chain_seq"],
        entry["tenant_id"],
        entry["mode"],
        entry["book"],
        entry["id"],
        f"{len(source_key.encode())}:{source_key}",
        entry["content_hash"].hex(),
        micros(entry["effective_at"]),
        micros(entry["booked_at"]),
        entry["causation_id"],
        f"{len(rule.encode())}:{rule}",
        entry["rule_version"],
        entry["reverses"] or "",
        *(
            f"{p['account']} {p['currency']} {p['account_seq']} {p['side']} {p['amount_minor']} "
            f"{p['balance_after_minor']}"
            for p in postings
        ),
    ]
    return hashlib.sha256(previous + "\n".join(map(str, lines)).encode()).digest()


async def test_anybody_can_recompute_the_chain(
    ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    acme, globex = Tenant(), Tenant()
    for event in (acme.payment(4900), globex.payment(5), acme.invoice({"flat": 1, "usage": 2})):
        log.publish(event)
    await log.settle()
    async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
        await book(tx, transfer(5, "käse\n1:x"), transfer(6, '"quoted"\\'), transfer(7, "\x01\x7f"))
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger")
        entries = await admin.fetch(
            "select * from journal_entry order by tenant_id, mode, book, chain_seq"
        )
        previous, chain = b"", None
        for entry in entries:
            place = (entry["tenant_id"], entry["mode"], entry["book"])
            if place != chain:
                chain, previous, seq = place, bytes(32), 0
            seq += 1
            postings = await admin.fetch(
                "select * from posting where entry_id = $1 order by line", entry["id"]
            )
            assert entry["chain_seq"] == seq
            assert entry["chain_hash"] == expected_hash(previous, entry, postings)
            previous = entry["chain_hash"]
    assert len(entries) == 6
    assert await faults(database) == []


ACME = "tenant_id = $1 and book = 'platform'"
TAMPERED = {
    "an amount, on both sides": (
        f"update posting set amount_minor = amount_minor + 1 where {ACME} and entry_id = "
        f"(select id from journal_entry where {ACME} and chain_seq = 3)"
    ),
    "an amount": f"update posting set amount_minor = 9 where {ACME} and account_seq = 1",
    "a side": f"update posting set side = 'credit' where {ACME} and account_seq = 2",
    "an account": (
        "update posting set account = 'asset:receivable' "
        f"where {ACME} and account = 'asset:bank' and account_seq = 4"
    ),
    "a running balance": (
        f"update posting set balance_after_minor = 0 where {ACME} and account_seq = 2"
    ),
    "a posting is gone": f"delete from posting where {ACME} and account_seq = 2 and side = 'debit'",
    "a posting's time": f"update posting set effective_at = now() where {ACME} and account_seq = 1",
    "a source key": f"update journal_entry set source_key = 'x' where {ACME} and chain_seq = 2",
    "a time": (
        f"with e as (update journal_entry set effective_at = now() where {ACME} and chain_seq = 2 "
        "returning id) update posting p set effective_at = now() from e where p.entry_id = e.id"
    ),
    "a cause": f"update journal_entry set causation_id = id where {ACME} and chain_seq = 2",
    "a rule": f"update journal_entry set rule_version = 2 where {ACME} and chain_seq = 2",
    "a hash": f"update journal_entry set chain_hash = sha256('x') where {ACME} and chain_seq = 2",
    "a content hash": (
        f"update journal_entry set content_hash = sha256('x') where {ACME} and chain_seq = 2"
    ),
    "an entry without its postings": f"delete from journal_entry where {ACME} and chain_seq = 2",
    "an entry with its postings": (
        f"with e as (delete from journal_entry where {ACME} and chain_seq = 2 returning id) "
        "delete from posting p using e where p.entry_id = e.id"
    ),
    "the last entry, head and balances": (
        f"with e as (delete from journal_entry where {ACME} and chain_seq = 5 returning id), "
        "p as (delete from posting p using e where p.entry_id = e.id), "
        f"b as (update account_balance set last_seq = 4, debit_minor = least(debit_minor, 10), "
        f"credit_minor = least(credit_minor, 10) where {ACME}) "
        "update book_chain c set last_seq = 4, last_hash = j.chain_hash from journal_entry j "
        "where c.tenant_id = $1 and j.tenant_id = $1 and j.chain_seq = 4"
    ),
    "the whole book": (
        f"with a as (delete from account_balance where {ACME}), p as (delete from posting where "
        f"{ACME}), c as (delete from book_chain where {ACME}) delete from journal_entry where {ACME}"
    ),
    "a balance": f"update account_balance set debit_minor = debit_minor + 1 where {ACME}",
    "a balance is gone": f"delete from account_balance where {ACME} and account = 'asset:bank'",
    "a number": (
        f"update posting set account_seq = 6 where {ACME} and account_seq = 5 and side = 'debit'"
    ),
    "a head": f"update book_chain set last_seq = last_seq + 1 where {ACME}",
    "a block that nobody booked": (
        "insert into posting_block values ($1, 'test', 'platform', 'asset:bank', 'EUR', 0, 15, "
        "now(), now(), now(), now())"
    ),
    "a block of an account that nobody booked on": (
        "insert into posting_block values ($1, 'test', 'platform', 'asset:nobody', 'EUR', 7, 15, "
        "now(), now(), now(), now())"
    ),
    "an hour that nobody booked": (
        "insert into posting_span values ($1, 'test', 'platform', 'asset:bank', 'EUR', 'hour', "
        "'2026-01-15 10:00Z', 15, '2026-01-15 10:30Z', '2026-01-15 10:30Z')"
    ),
    "an account is gone": f"delete from account where {ACME} and code = 'asset:bank'",
    "an account's side": (
        f"update account set normal_side = 'credit' where {ACME} and code = 'asset:bank'"
    ),
}


@pytest.fixture
async def five(ledger: Database, database: TestDatabase) -> tuple[Any, Heads]:
    """A book of five entries whose head was told; the tenant and the told heads."""
    tenant_id = new_id()
    async with ledger.tenant(tenant_id, "test", books=BOTH) as tx:
        await book(tx, *(transfer(number, f"k{number}") for number in range(1, 6)))
        head = await tx.fetchval("select encode(last_hash, 'hex') from book_chain")
    heads: Heads = {(tenant_id, "test", "platform"): {5: frozenset({head})}}
    assert await faults(database, heads) == []
    return tenant_id, heads


async def test_every_tampering_shows(five: tuple[Any, Heads], database: TestDatabase) -> None:
    """The rows as somebody leaves them who may do everything in Postgres and nothing in Kafka."""
    tenant_id, heads = five
    unseen = []
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger; set session_replication_role = replica")
        proof = LedgerProof(admin)
        for what, statement in TAMPERED.items():
            change = admin.transaction(isolation="repeatable_read")
            await change.start()
            assert await admin.execute(statement, tenant_id) not in ("UPDATE 0", "DELETE 0")
            (of_acme,) = await proof.books(str(tenant_id), heads)
            if not (await proof.check(of_acme, heads, lambda _: None)).faults:
                unseen.append(what)
            await change.rollback()
    assert unseen == []


async def test_a_rewritten_book_differs_from_its_told_head(
    five: tuple[Any, Heads], ledger: Database, database: TestDatabase
) -> None:
    """Who makes all rows anew gets a chain that holds in itself: only the told head tells."""
    tenant_id, heads = five
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger; set session_replication_role = replica")
        await admin.execute(
            "truncate posting, journal_entry, account_balance, book_chain, posting_block cascade"
        )
    async with ledger.tenant(tenant_id, "test", books=BOTH) as tx:
        await book(tx, *(transfer(number + 1, f"k{number}") for number in range(1, 6)))
    assert await faults(database) == []
    (fault,) = await faults(database, heads)
    assert "up to it the chain was rewritten" in fault


async def test_heads_are_told_once_and_again_before_the_topic_forgets_them(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PORT", "8106"), ("POSTGRES", "postgresql://x@127.0.0.1/x")):
        monkeypatch.setenv(f"SLUICE_LEDGER_{name}", value)
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=")
    settings = Settings(ledger_anchor_entries=2)
    acme = Tenant()

    async def told() -> list[tuple[str, int]]:
        await jobs.anchor_chains(ledger, settings)
        await log.settle()
        return [(e.data.book, e.data.chain_seq) for e in log.events(LedgerHeadAnchored)]

    assert await told() == []
    log.publish(acme.payment(100))
    await log.settle()
    assert await told() == [("platform", 1)]
    log.publish(acme.payment(200))
    await log.settle()
    assert await told() == [("platform", 1)]
    log.publish(acme.payment(300))
    log.publish(acme.payment(400, collected_by="tenant"))
    await log.settle()
    assert sorted((await told())[1:]) == [("platform", 3), ("tenant", 1)]
    fact = log.events(LedgerHeadAnchored)[0].data
    async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
        kept = await tx.fetchval(
            "select chain_hash from journal_entry where book = 'platform' and chain_seq = 1"
        )
    assert fact.chain_hash == kept.hex()
    later = utc_now() + anchoring.TOLD_AGAIN_AFTER
    async with ledger.maintenance() as tx:
        again = await anchoring.due(tx, later, anchoring.TOLD_AGAIN_AFTER, 10**6)
    assert len(again) == 2


def test_the_proof_knows_which_accounts_are_contrary() -> None:
    """It holds accounts against the chart in words of its own."""
    contra = [
        account.code
        for account in (*chart.FIXED, chart.clearing("acct_1"))
        if (account.type in ("asset", "expense")) != (account.normal_side == "debit")
    ]
    assert tuple(contra) == CONTRA_ACCOUNTS


async def test_a_head_cannot_be_moved_back(five: tuple[Any, Heads], ledger: Database) -> None:
    async with ledger.tenant(five[0], "test", books=BOTH) as tx:
        with pytest.raises(asyncpg.CheckViolationError):
            await tx.execute("update book_chain set anchored_seq = last_seq + 1")
