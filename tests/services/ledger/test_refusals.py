"""What the database itself refuses, whoever asks: the service's role, its maintenance role, the owner."""

from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from ledger.facts import START, Tenant, assert_sound, book, net_balances, transfer
from libs.db.pool import Database
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import chart
from services.ledger.entries import Entry, credit, debit
from services.ledger.store import SourceKeyConflictError

BOTH = ("platform", "tenant")
ENTRY = (
    "insert into journal_entry (tenant_id, mode, book, id, source_key, content_hash, effective_at, "
    "booked_at, causation_id, rule, rule_version, chain_seq, chain_hash) values ($1, 'test', "
    "'platform', $2, $3, sha256('x'), now(), now(), $2, 'trial', 1, 1000, sha256('y'))"
)
POSTING = (
    "insert into posting (tenant_id, mode, book, account, currency, account_seq, entry_id, line, "
    "side, amount_minor, balance_after_minor, effective_at, booked_at) values ($1, 'test', "
    "'platform', $2, 'EUR', 1000, $3, $4, $5, $6, 0, now(), now())"
)


@pytest.fixture
async def acme(ledger: Database, log: MemoryLog) -> Tenant:
    """A tenant with a payment in its book."""
    tenant = Tenant()
    log.publish(tenant.created())
    log.publish(tenant.payment(4900))
    await log.settle()
    async with ledger.tenant(tenant.id, "test", books=BOTH) as tx:
        assert await tx.fetchval("select count(*) from posting") == 2
    return tenant


async def test_the_services_role_cannot_write_past_the_function(
    ledger: Database, acme: Tenant, database: TestDatabase
) -> None:
    before = await net_balances(database)
    for statement, arguments in (
        (ENTRY, (acme.id, new_id(), "forged")),
        (POSTING, (acme.id, "asset:bank", new_id(), 1, "debit", 100)),
        ("update account_balance set debit_minor = debit_minor + 1", ()),
        ("delete from account_balance", ()),
        ("update book_chain set last_hash = sha256('x')", ()),
        ("insert into book_chain select * from book_chain", ()),
        ("delete from book_chain", ()),
        ("insert into posting_block select * from posting_block", ()),
        ("update posting_block set change_minor = 0", ()),
        ("update posting_span set change_minor = 0", ()),
        ("select add_up_blocks('{}', 'test', '{}', '{}', '{}', '{1}')", ()),
        ("update journal_entry set source_key = 'other'", ()),
        ("delete from journal_entry", ()),
        ("update posting set amount_minor = 1", ()),
        ("delete from posting", ()),
        ("truncate posting, journal_entry", ()),
        ("update account set type = 'revenue'", ()),
        ("delete from account", ()),
        ("alter table posting disable trigger all", ()),
        ("set session_replication_role = replica", ()),
        ("set role sluice_owner", ()),
    ):
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with tx.connection.transaction():
                    await tx.execute(statement, *arguments)
    assert await net_balances(database) == before
    await assert_sound(database)


@pytest.mark.parametrize("forbidden", ["insert into", "update", "delete from"])
async def test_the_maintenance_role_only_reads(
    ledger: Database, acme: Tenant, forbidden: str
) -> None:
    ends = {"insert into": "default values", "update": "set tenant_id = $1", "delete from": ""}
    for table in ("account", "journal_entry", "posting", "account_balance"):
        async with ledger.maintenance() as tx:
            assert await tx.fetchval(f"select count(*) from {table}")
            arguments = [acme.id] if forbidden == "update" else []
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await tx.execute(f"{forbidden} {table} {ends[forbidden]}", *arguments)


@pytest.mark.usefixtures("acme")
async def test_what_is_booked_never_changes_not_even_for_the_owner(database: TestDatabase) -> None:
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger")
        for statement in (
            "update journal_entry set source_key = 'other'",
            "delete from journal_entry",
            "update posting set amount_minor = amount_minor + 1",
            "delete from posting",
            "truncate posting",
            "truncate journal_entry cascade",
            "update account set normal_side = 'credit'",
        ):
            with pytest.raises(asyncpg.PostgresError, match="never changed"):
                await admin.execute(statement)


async def test_nobody_inserts_an_unbalanced_entry(acme: Tenant, database: TestDatabase) -> None:
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger")
        entry_id = new_id()
        with pytest.raises(asyncpg.PostgresError, match="does not balance"):
            async with admin.transaction():
                await admin.execute(ENTRY, acme.id, entry_id, "forged")
                await admin.execute(POSTING, acme.id, "asset:bank", entry_id, 1, "debit", 100)
    await assert_sound(database)


async def test_an_entry_has_one_tenant_and_one_book(acme: Tenant, database: TestDatabase) -> None:
    globex = new_id()
    async with database.admin() as admin:
        await admin.execute("set search_path = ledger")
        theirs = await admin.fetchval("select id from journal_entry where tenant_id = $1", acme.id)
        await admin.execute(
            "insert into account values ($1, 'test', 'platform', 'asset:bank', 'asset', 'debit')",
            globex,
        )
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await admin.execute(
                """
                insert into posting (tenant_id, mode, book, account, currency, account_seq,
                    entry_id, line, side, amount_minor, balance_after_minor, effective_at, booked_at)
                values ($1, 'test', 'platform', 'asset:bank', 'EUR', 1, $2, 8, 'debit', 5, 5,
                        now(), now()),
                       ($1, 'test', 'platform', 'asset:bank', 'EUR', 2, $2, 9, 'credit', 5, 0,
                        now(), now())
                """,
                globex,
                theirs,
            )


async def post(
    tx: object, lines: list[tuple[str, str, int]], *, tenant_id: UUID, currency: str = "EUR"
) -> None:
    """Call the function as a careless or hostile program would."""
    entry_id = new_id()
    await tx.execute(  # type: ignore[attr-defined]
        "select post_entries($1, '{platform}', $2, '{k}', array[sha256('x')], $3, $3, $2, '{trial}', "
        "'{1}', $4, $5, $6, $7, $8)",
        [tenant_id],
        [entry_id],
        [START],
        [entry_id] * len(lines),
        [account for account, _, _ in lines],
        [side for _, side, _ in lines],
        [amount for _, _, amount in lines],
        [currency] * len(lines),
    )


BANK, SUSPENSE = "asset:bank", "liability:suspense"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [(BANK, "debit", 100)],
        [(BANK, "debit", 100), (SUSPENSE, "credit", 99)],
        [(BANK, "debit", 100), (SUSPENSE, "debit", 100)],
        [(BANK, "debit", 0), (SUSPENSE, "credit", 0)],
        [(BANK, "debit", -5), (SUSPENSE, "credit", -5)],
        [(BANK, "debit", 5), ("asset:petty_cash", "credit", 5)],
        [(BANK, "debit", 5), (SUSPENSE, "left", 5)],
        [(BANK, "debit", 2**63 - 1), (BANK, "debit", 1), (SUSPENSE, "credit", 2**62)],
    ],
)
async def test_the_function_refuses_what_is_no_entry(
    ledger: Database, acme: Tenant, database: TestDatabase, lines: list[tuple[str, str, int]]
) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            await post(tx, lines, tenant_id=acme.id)
    await assert_sound(database)


async def test_an_entry_opens_the_accounts_that_it_is_first_booked_on(
    ledger: Database, acme: Tenant, database: TestDatabase
) -> None:
    """Once each, whatever its currencies; and nobody books on an account that is not open."""
    petty = chart.own("asset", "petty_cash")
    lines = (
        *(debit(petty, 5, "EUR"), credit(chart.SUSPENSE, 5, "EUR")),
        *(debit(petty, 7, "JPY"), credit(chart.SUSPENSE, 7, "JPY")),
    )
    async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="no account"):
            async with tx.connection.transaction():
                unopened = [(petty.code, "debit", 5), (SUSPENSE, "credit", 5)]
                await post(tx, unopened, tenant_id=acme.id)
        assert len(await book(tx, Entry("platform", "first", "trial", lines))) == 1
        again = tuple(replace(line, currency="USD") for line in lines[:2])
        assert len(await book(tx, Entry("platform", "again", "trial", again))) == 1
        assert await tx.fetch(
            "select type, normal_side from account where book = 'platform' and code = $1",
            petty.code,
        ) == [("asset", "debit")]
    await assert_sound(database)


async def test_the_function_keeps_to_the_scope(
    ledger: Database, acme: Tenant, database: TestDatabase
) -> None:
    globex = new_id()
    balanced = [(BANK, "debit", 5), (SUSPENSE, "credit", 5)]
    for scope in (
        Scope((globex,), "test", BOTH),
        Scope((acme.id,), "test", ("tenant",)),
        Scope((acme.id,), "test", ()),
        Scope((), "test", BOTH),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with ledger.transaction(scope) as tx:
                await post(tx, balanced, tenant_id=acme.id)
    with pytest.raises(asyncpg.PostgresError):
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            await post(tx, balanced, tenant_id=acme.id, currency="eur")
    await assert_sound(database)


async def test_a_scope_sees_its_tenant_mode_and_books_alone(ledger: Database, acme: Tenant) -> None:
    async def seen(scope: Scope) -> int:
        async with ledger.transaction(scope) as tx:
            return int(await tx.fetchval("select count(*) from posting"))

    assert await seen(Scope((acme.id,), "test", BOTH)) == 2
    assert await seen(Scope((acme.id,), "test", ("platform",))) == 2
    assert await seen(Scope((acme.id,), "test", ("tenant",))) == 0
    assert await seen(Scope((acme.id,), "test", ())) == 0
    assert await seen(Scope((acme.id,), "live", BOTH)) == 0
    assert await seen(Scope((new_id(),), "test", BOTH)) == 0
    assert await seen(Scope()) == 0


async def test_the_same_key_with_other_content_is_refused_and_books_nothing(
    ledger: Database, acme: Tenant, database: TestDatabase
) -> None:
    async def booked(*entries: Entry) -> int:
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            return len(await book(tx, *entries))

    assert await booked(transfer(5, "a")) == 1
    assert await booked(transfer(5, "a"), transfer(6, "b")) == 1
    with pytest.raises(SourceKeyConflictError, match="a is booked already"):
        await booked(transfer(7, "c"), transfer(8, "a"))
    with pytest.raises(SourceKeyConflictError, match="d is booked already"):
        await booked(transfer(1, "d"), transfer(2, "d"))
    assert await net_balances(database, acme) == {
        "asset:bank EUR": 11,
        "asset:receivable EUR": -4900,
        "asset:stripe_clearing:platform EUR": 4900,
        "liability:suspense EUR": -11,
    }
    await assert_sound(database)
