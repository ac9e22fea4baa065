"""Accounts are opened under the lock of their book: nobody waits for one who waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from ledger.facts import START, Tenant, assert_sound, book
from libs.clock import utc_now
from libs.contracts.ledger import OpenAccount, PostedLine
from libs.db.pool import Cause, Database, Row, Tx
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.ledger import (
    bounds,
    chart,
    holds,
    own_accounts,
    periods,
    posting,
    repairing,
    store_holds,
)
from services.ledger.bounds import Bounds
from services.ledger.entries import Entry, credit, debit
from services.ledger.holds import Capture, Wish
from services.ledger.matching import Proposal
from services.ledger.store import Booking

BOTH = ("platform", "tenant")
CREDITS, UNAPPLIED = chart.CUSTOMER_CREDITS, chart.UNAPPLIED_PAYMENTS
PETTY, CLEARING = chart.own("asset", "petty_cash"), chart.clearing("acct_1")

Opens = Callable[[Tx, Tenant], Awaitable[object]]
"""Somebody else who opens an account, of those that are just being booked on."""


async def bounds_an_account(tx: Tx, _: Tenant) -> None:
    await bounds.put(tx, "platform", UNAPPLIED.code, "EUR", Bounds(0, 100), actor="x", now=START)


async def holds_an_amount(tx: Tx, _: Tenant) -> None:
    now = utc_now()
    wish = Wish("lunch", UNAPPLIED.code, "EUR", 5, now + timedelta(hours=1))
    await holds.place(tx, "platform", wish, actor="x", now=now)


async def captures_a_hold(tx: Tx, _: Tenant) -> None:
    now = utc_now()
    wish = Capture("ride", UNAPPLIED.code, None, "released", now)
    await holds.capture(tx, await the_hold(tx), wish, actor="x", now=now)


async def the_hold(tx: Tx) -> Row:
    (found,) = await store_holds.list_holds(
        tx,
        "test",
        "platform",
        tenant_id=tx.tenant_id,
        account=CREDITS.code,
        is_open=True,
        before=None,
        limit=2,
    )
    return found


async def repairs_a_break(tx: Tx, tenant: Tenant) -> None:
    lines = (
        PostedLine(account=CLEARING.code, side="debit", amount_minor=5, currency="EUR"),
        PostedLine(account=chart.SUSPENSE.code, side="credit", amount_minor=5, currency="EUR"),
    )
    proposal = Proposal(action="adjust", tenant_id=tenant.id, book="platform", postings=lines)
    found = {"account": "acct_1", "reference": "txn_1", "id": new_id(), "times_found": 1}
    found["kind"] = "amount"
    await repairing._carry_out(tx, found, proposal, None, "x", utc_now())


async def reads_that_an_account_was_opened(tx: Tx, tenant: Tenant) -> None:
    fact = OpenAccount(
        book="platform", account=PETTY.code, purpose="x", opened_at=START, actor="key_x"
    )
    await own_accounts.take_command(tx, tenant.event(fact))
    await book(
        tx,
        Entry("platform", "next", "trial", (debit(PETTY, 5, "EUR"), credit(UNAPPLIED, 5, "EUR"))),
    )


async def reads_that_the_tenant_was_created(tx: Tx, _: Tenant) -> None:
    await posting.open_books(tx)
    await book(
        tx,
        Entry("platform", "next", "trial", (debit(PETTY, 5, "EUR"), credit(UNAPPLIED, 5, "EUR"))),
    )


@pytest.mark.parametrize(
    "opens",
    [
        bounds_an_account,
        holds_an_amount,
        captures_a_hold,
        repairs_a_break,
        reads_that_an_account_was_opened,
        reads_that_the_tenant_was_created,
    ],
)
async def test_who_opens_an_account_waits_for_who_books_and_nobody_for_both(
    ledger: Database, database: TestDatabase, opens: Opens
) -> None:
    acme = Tenant()
    now = utc_now()
    async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
        await book(
            tx,
            Entry(
                "platform", "a", "trial", (debit(chart.BANK, 9, "EUR"), credit(CREDITS, 9, "EUR"))
            ),
        )
        wish = Wish("taxi", CREDITS.code, "EUR", 9, now + timedelta(hours=1))
        await holds.place(tx, "platform", wish, actor="x", now=now)

    async def open_meanwhile() -> None:
        async with ledger.tenant(acme.id, "test", books=BOTH) as tx:
            await opens(tx, acme)

    lines = (debit(PETTY, 5, "EUR"), debit(CLEARING, 5, "EUR"), credit(UNAPPLIED, 10, "EUR"))
    entry = Entry("platform", "b", "trial", lines)
    booking = Booking(new_id(), acme.id, entry, START, START, Cause(new_id(), new_id()))
    async with database.admin() as admin, ledger.tenant(acme.id, "test", books=BOTH) as tx:
        moved = await periods.into_open(tx, [booking])
        opening = asyncio.create_task(open_meanwhile())
        while not await admin.fetchval(
            "select exists (select from pg_locks l join pg_database d on d.oid = l.database "
            "where d.datname = current_database() and locktype = 'advisory' and not granted)"
        ):
            assert not opening.done(), "it did not wait for who books"
            await asyncio.sleep(0.005)
        assert await posting.book_in_open(tx, moved) == moved
    await opening
    await assert_sound(database)
