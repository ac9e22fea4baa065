"""Stripe accounts with a past: what moved before the tenant connected them is nobody's to book."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.facts import assert_sound
from ledger.stripe_side import TERMS, StripeSide, own_account
from libs.clock import utc_now
from libs.contracts.ledger import TellTransactionsAgain
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import chart, commands
from services.ledger.commands_asked import FullAccountError

REPAIRING = replace(TERMS, repairs=True)
NOBODY = ("payment", "transaction")
OPENING = chart.OPENING_BALANCES.code


def days_ago(days: float) -> datetime:
    return (utc_now() - timedelta(days=days)).replace(microsecond=0)


def move_back(side: StripeSide, reference: str, days: float) -> None:
    """Have Stripe have made a movement so long ago."""
    side.lines = [
        line.model_copy(update={"created_at": days_ago(days)})
        if reference in (line.source_id, line.stripe_balance_transaction_id)
        else line
        for line in side.lines
    ]


def live_before(side: StripeSide) -> int:
    """A past that nobody told, of 45 days; what it amounts to."""
    for days in range(45, 20, -5):
        move_back(side, side.pay(1_000 + days, 30, untold=NOBODY), days)
    move_back(side, side.pay(700, 20, currency="USD", untold=NOBODY), 22)
    move_back(side, side.move("refund", -100, told=False), 33)
    late = side.pay_out(400, status="in_transit", arrival_on=days_ago(19).date(), told=False)
    move_back(side, late, 21)
    return sum(line.net_minor for line in side.lines if line.currency == "EUR")


async def opened(ledger: Database, side: StripeSide, currency: str = "EUR") -> int:
    """What the books say the account held when it was connected."""
    async with ledger.tenant(side.owner, side.mode, books=("tenant",)) as tx:
        minor: int = await tx.fetchval(
            "select coalesce(sum(credit_minor - debit_minor), 0)::bigint from account_balance "
            "where account = $1 and currency = $2",
            OPENING,
            currency,
        )
    return minor


async def test_an_account_with_a_past_agrees_to_the_cent(
    ledger: Database, log: MemoryLog, database: TestDatabase
) -> None:
    # Given an account with 45 days of payments, connected 20 days ago,
    side = own_account(log)
    side.ours_from = days_ago(20)
    charge = side.pay(9_000, 90, untold=NOBODY)
    move_back(side, charge, 44)
    past = live_before(side)
    # and since then payments, and money that goes back of what was paid before,
    move_back(side, side.pay(2_000, 60), 19)
    side.pay(2_500, 70)
    side.move("refund", -9_000, source_id=charge)
    side.move("adjustment", -1_045, source_id="du_of_before")
    side.pay_out(3_000)
    # when it is compared for the first time, nothing is a break, and nothing is told again:
    row = await side.reconcile(ledger, REPAIRING)
    assert (row["matched_count"], row["breaks_found"]) == (5, 0), await side.found(ledger)
    assert log.events(TellTransactionsAgain) == []
    # one look at what Stripe holds is not enough.
    assert await opened(ledger, side) == 0
    # When it is compared again, what was held at the connection is booked, to the cent,
    for _ in range(2):
        row = await side.reconcile(ledger, REPAIRING)
        assert row["breaks_found"] == 0
        for balance in row["balances"]:
            assert balance["stripe_minor"] == balance["ledger_minor"], balance
            assert balance["unexplained_minor"] == 0
        assert await opened(ledger, side) == past
        assert await opened(ledger, side, "USD") == 680
    await assert_sound(database)
    # and books that are made of their topics anew hold it as well.
    await log.replay(clear_inboxes=True)
    assert (await side.reconcile(ledger, REPAIRING))["breaks_found"] == 0
    assert await side.breaks(ledger) == []


async def test_what_nobody_explains_later_is_a_break_and_no_opening_balance(
    ledger: Database, log: MemoryLog
) -> None:
    # Given an account that was connected when it held nothing,
    side = own_account(log)
    side.ours_from = days_ago(5)
    side.pay(1_000, 30)
    await side.reconcile(ledger, REPAIRING)
    # when Stripe holds what it does not list,
    side.unlisted_minor = 77
    await side.reconcile(ledger, REPAIRING)
    await side.reconcile(ledger, REPAIRING)
    # then that is for people.
    assert await side.found(ledger, "proposed") == {"balance_EUR": "balance"}
    assert await opened(ledger, side) == 0


async def test_what_is_booked_of_before_is_judged_as_all_else(
    ledger: Database, log: MemoryLog
) -> None:
    # Given payments of before the connection that were booked in the past, one with a wrong fee,
    side = own_account(log)
    side.ours_from = days_ago(1)
    side.pay(1_000, 30)
    wrong = side.pay(2_000, 40, told_fee_minor=45)
    live_before(side)
    # when the account is compared,
    await side.reconcile(ledger, REPAIRING)
    row = await side.reconcile(ledger, REPAIRING)
    # then only what is booked otherwise is a break, and the rest is the opening balance.
    assert await side.found(ledger) == {wrong: "amount"}
    (euros,) = [each for each in row["balances"] if each["currency"] == "EUR"]
    assert euros["unexplained_minor"] == 0
    assert euros["stripe_minor"] - euros["ledger_minor"] == 5


async def test_a_movement_of_the_second_of_the_connection_is_ours(
    ledger: Database, log: MemoryLog
) -> None:
    side = own_account(log)
    side.ours_from = days_ago(3)
    first = side.pay(1_000, 30, untold=NOBODY)
    side.lines = [line.model_copy(update={"created_at": side.ours_from}) for line in side.lines]
    await side.reconcile(ledger)
    assert await side.found(ledger) == {first: "missing_in_ledger"}


@pytest.mark.parametrize("reason", ["connected_long_ago", "repairs_off", "account_full"])
async def test_what_cannot_be_booked_by_itself_is_left_to_people(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    side = own_account(log)
    side.ours_from = days_ago(60 if reason == "connected_long_ago" else 20)
    side.unlisted_minor = 500

    async def refuse(_tx: Any, _book: Any, groups: Any) -> list[Exception]:
        return [FullAccountError(group[0].entry.source_key, OPENING) for group in groups]

    if reason == "account_full":
        monkeypatch.setattr(commands, "post", refuse)
    terms = replace(REPAIRING, repairs=reason != "repairs_off")
    await side.reconcile(ledger, terms)
    await side.reconcile(ledger, terms)
    assert await side.found(ledger, "proposed") == {"balance_EUR": "balance"}
    assert await opened(ledger, side) == 0


async def test_the_entry_is_of_the_time_of_the_connection(ledger: Database, log: MemoryLog) -> None:
    side = own_account(log)
    side.ours_from = days_ago(2)
    side.unlisted_minor = 500
    await side.reconcile(ledger, REPAIRING)
    await side.reconcile(ledger, REPAIRING)
    async with ledger.tenant(side.owner, side.mode, books=("tenant",)) as tx:
        (row,) = await tx.fetch("select source_key, effective_at from journal_entry")
    assert row["source_key"] == f"repair:{side.account}:balance_EUR:adjust:opening"
    assert row["effective_at"] == side.ours_from
