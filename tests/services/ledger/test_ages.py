"""How old the money is that stands on clearing accounts and in suspense: what came first leaves first."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.facts import START
from ledger.stripe_side import StripeSide, own_account, platforms_account
from libs.clock import format_time
from libs.db.pool import Database
from libs.observability.metrics import LEDGER_UNCLEARED_OLDEST_AGE_SECONDS
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import reconciling, reconciling_ends, store_ages

CLEARING = "asset:stripe_clearing:acct_acme"


def on_day(number: int) -> str:
    return format_time(START + timedelta(days=number))


async def euros(side: StripeSide, ledger: Database) -> dict[str, Any]:
    """The balance that a run shows."""
    row = await side.reconcile(ledger)
    found: dict[str, Any] = next(each for each in row["balances"] if each["currency"] == "EUR")
    return found


async def test_new_money_does_not_make_old_money_younger(ledger: Database, log: MemoryLog) -> None:
    # Given money of the first day, and a little of a hundred days later,
    side = own_account(log)
    side.pay(1_000)
    side.payer.days = 100
    side.pay(10)
    assert (await euros(side, ledger))["held_since"] == on_day(1)
    # when some of it leaves, what is left of the first day is the oldest;
    side.pay_out(600)
    assert (await euros(side, ledger))["held_since"] == on_day(1)
    # when all of that day has left, the later is;
    side.pay_out(400)
    assert (await euros(side, ledger))["held_since"] == on_day(101)
    # and what is empty has no age, until money comes again.
    side.pay_out(10)
    assert (await euros(side, ledger))["held_since"] is None
    side.payer.days = 150
    side.pay(5)
    assert (await euros(side, ledger))["held_since"] == on_day(151)


async def test_suspense_has_an_age_and_both_are_shown(ledger: Database, log: MemoryLog) -> None:
    """Over the books of all tenants, of the platform's account."""
    side = platforms_account(log)
    side.move("climate_order_purchase", 700)
    side.payer.days = 9
    side.pay(300)
    shown = await euros(side, ledger)
    assert (shown["held_since"], shown["suspense_since"]) == (on_day(1), on_day(1))
    await reconciling.measure(ledger)
    for account in ("stripe_clearing", "suspense"):
        age = LEDGER_UNCLEARED_OLDEST_AGE_SECONDS.labels(account=account)._value.get()
        assert age > timedelta(days=1).total_seconds()


async def as_counted_backwards(database: TestDatabase) -> datetime | None:
    """The age by its other definition: the newest money that makes the balance, back to its oldest."""
    async with database.admin() as admin:
        postings = await admin.fetch(
            "select side, amount_minor, effective_at, balance_after_minor from ledger.posting "
            "where account = $1 order by account_seq desc",
            CLEARING,
        )
    left = postings[0]["balance_after_minor"]
    side = "debit" if left > 0 else "credit"
    left = abs(left)
    for each in postings:
        if left > 0 and each["side"] == side:
            left -= each["amount_minor"]
            if left <= 0:
                at: datetime = each["effective_at"]
                return at
    return None


@pytest.mark.parametrize("seed", range(3))
async def test_reading_on_where_it_was_left_comes_to_the_same(
    ledger: Database,
    log: MemoryLog,
    database: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """Whatever comes and leaves, also more than there was, and however little is read at once."""
    rng = random.Random(seed)
    monkeypatch.setattr(store_ages, "ACCOUNTS_AT_ONCE", 1)
    monkeypatch.setattr(store_ages, "POSTINGS_AT_ONCE", 2)
    monkeypatch.setattr(reconciling_ends, "AGE_STEPS_AT_ONCE", 200)
    side = own_account(log)
    side.pay(100)
    for _ in range(6):
        for _ in range(rng.randrange(1, 5)):
            if rng.random() < 0.5:
                side.pay(rng.randrange(1, 300))
            else:
                side.move("refund", -rng.randrange(1, 300))
        shown = await euros(side, ledger)
        expected = await as_counted_backwards(database)
        assert shown["held_since"] == (format_time(expected) if expected else None)


async def test_a_long_history_is_read_on_by_the_next_run(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run reads more than so much, and none reads it again."""
    monkeypatch.setattr(store_ages, "POSTINGS_AT_ONCE", 3)
    monkeypatch.setattr(reconciling_ends, "AGE_STEPS_AT_ONCE", 1)
    side = own_account(log)
    for _ in range(4):
        side.pay(100)
    side.pay_out(350)
    assert (await euros(side, ledger))["held_since"] is None, "not known yet"
    assert (await euros(side, ledger))["held_since"] == on_day(7)
