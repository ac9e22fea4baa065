"""Statements of large accounts: listed in slices that are kept, each of bounded length."""

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import StripeStatement
from libs.db.pool import Database
from libs.ids import new_id
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync import statements
from services.stripe_sync.client import Json, StripeApi, StripeTransientError
from services.stripe_sync.identities import Identities
from services.stripe_sync.statements import StatementWorker
from tests.services.stripe_sync.conftest import World

START = datetime(2026, 3, 1, 12, 30, 0, 500_000, tzinfo=UTC)
DAYS = 12
ACCOUNT = "acct_large"


class Shelf(StripeApi):
    """An account as Stripe lists it.

    Attributes:
        asked: what each list was asked for, page by page.
        answers: how many calls are answered before Stripe is down; None: all.
    """

    def __init__(self) -> None:
        super().__init__(cast("Any", None))
        self.lines: list[Json] = []
        self.payouts: list[Json] = []
        self.asked: list[Mapping[str, Any]] = []
        self.answers: int | None = None

    def fill(self, days: int, lines_a_day: int) -> None:
        """Payments of some days; each day's leave with a payout of the day after."""
        for day in range(days):
            payout = f"po_{day}"
            for number in range(lines_a_day):
                at = START + timedelta(days=day, seconds=1 + number * 80_000 // lines_a_day)
                self._line(f"txn_{day}_{number}", 100, at, payout)
            at = START + timedelta(days=day + 1, seconds=-1)
            self._line(f"txn_{payout}", -100 * lines_a_day, at, payout)
            self.payouts.append(
                {
                    "id": payout,
                    "created": int(at.timestamp()),
                    "automatic": True,
                    "reconciliation_status": "completed",
                    "currency": "eur",
                    "amount": 100 * lines_a_day,
                    "balance_transaction": f"txn_{payout}",
                    "status": "paid",
                    "arrival_date": int(at.timestamp()),
                }
            )

    def _line(self, name: str, amount: int, at: datetime, payout: str) -> None:
        self.lines.append(
            {
                "id": name,
                "type": "payout" if amount < 0 else "charge",
                "source": None,
                "amount": amount,
                "fee": 0,
                "net": amount,
                "currency": "eur",
                "created": int(at.timestamp()),
                "available_on": int(at.timestamp()),
                "payout": payout,
            }
        )

    async def get(self, operation: str, path: str, params: Mapping[str, Any] | None = None) -> Json:
        del operation
        if self.answers is not None and len(self.asked) >= self.answers:
            raise StripeTransientError("down", "for a test")
        wanted = params or {}
        self.asked.append(wanted)
        if path == "/v1/balance":
            return {"available": [{"amount": 7, "currency": "eur"}], "pending": []}
        created = wanted.get("created", {"gte": 0, "lt": 1 << 40})
        found = [
            each
            for each in reversed(self.payouts if path == "/v1/payouts" else self.lines)
            if created["gte"] <= each["created"] < created["lt"]
            and each.get("payout") == wanted.get("payout", each.get("payout"))
        ]
        ids = [each["id"] for each in found]
        start = ids.index(wanted["starting_after"]) + 1 if "starting_after" in wanted else 0
        end = start + wanted["limit"]
        return {"data": found[start:end], "has_more": end < len(found)}


@pytest.fixture
async def ledger(world: World) -> AsyncGenerator[Database, None]:
    """The ledger beside stripe_sync, on the same log."""
    async with world.test_database.open("ledger") as opened:
        world.log.add(opened, LEDGER_HANDLERS)
        yield opened


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A slice has 200 lines at most, a day 300."""
    monkeypatch.setattr(statements, "SLICE_PAGES_MAX", 2)
    monkeypatch.setattr(statements, "DAY_PAGES_MAX", 3)
    monkeypatch.setattr(statements, "PARTS_AT_ONCE", 3)
    return Shelf()


async def ask(world: World) -> StatementRequested:
    wanted = StatementRequested(
        statement_id=new_id(),
        account=ACCOUNT,
        listed_from=START,
        listed_to=START + timedelta(days=DAYS),
    )
    await world.publish(wanted, world.tenants["acme"].id)
    return wanted


async def answer(world: World, shelf: Shelf) -> None:
    """Answer what is due."""
    identity = SimpleNamespace(tenant_id=world.tenants["acme"].id, api=shelf)

    async def of(account: str, mode: str) -> Any:
        return identity if (account, mode) == (ACCOUNT, "test") else None

    worker = StatementWorker(world.database, cast("Identities", SimpleNamespace(of=of)))
    for key in await worker.due():
        await worker.answer(key)
    await world.log.settle()


async def request_of(world: World, wanted: StatementRequested) -> dict[str, Any]:
    async with world.database.tenant(world.tenants["acme"].id, "test") as tx:
        row = await tx.fetchrow(
            "select * from statement_request where statement_id = $1", wanted.statement_id
        )
    assert row is not None
    return dict(row)


async def is_kept(world: World) -> bool:
    return bool(await world.rows("statement_entry") or await world.rows("statement_departure"))


async def whole(world: World, ledger: Database, shelf: Shelf, wanted: StatementRequested) -> None:
    """The statement is all that Stripe lists, once, oldest first, with what left by which payout."""
    parts = [event.data for event in world.log.events(StripeStatement)]
    assert [each.part for each in parts] == list(range(1, parts[0].parts + 1))
    lines = [line for each in parts for line in each.lines]
    assert [(line.stripe_balance_transaction_id, line.payout_id) for line in lines] == [
        (line["id"], line["payout"]) for line in shelf.lines
    ]
    payouts = [each.stripe_payout_id for part in parts for each in part.payouts]
    assert payouts == [each["id"] for each in shelf.payouts]
    async with ledger.tenant(world.tenants["acme"].id, "test") as tx:
        row = await tx.fetchrow("select * from statement where id = $1", wanted.statement_id)
    assert row is not None
    assert (row["state"], row["line_count"]) == ("complete", len(shelf.lines))
    assert (await request_of(world, wanted))["state"] == "done"
    assert not await is_kept(world)


async def test_a_large_account_is_listed_in_slices(
    world: World, ledger: Database, shelf: Shelf
) -> None:
    # Given an account of which no list of all days would be whole
    shelf.fill(DAYS, 250)
    wanted = await ask(world)
    # When it is listed
    await answer(world, shelf)
    # Then all of it is told, and what was kept for that is gone
    await whole(world, ledger, shelf, wanted)


async def test_a_small_account_is_listed_at_once(
    world: World, ledger: Database, shelf: Shelf
) -> None:
    shelf.fill(2, 50)
    wanted = await ask(world)
    await answer(world, shelf)
    await whole(world, ledger, shelf, wanted)
    pages = [each for each in shelf.asked if "created" in each]
    assert len(pages) == 3, "two of lines, one of payouts"


async def test_a_try_that_fails_goes_on_from_the_last_slice(
    world: World, ledger: Database, shelf: Shelf
) -> None:
    # Given Stripe is down after some slices
    shelf.fill(DAYS, 250)
    wanted = await ask(world)
    shelf.answers = 40
    await answer(world, shelf)
    assert world.log.events(StripeStatement) == []
    before = await request_of(world, wanted)
    assert START < before["listed_upto"] < wanted.listed_to
    assert (before["attempts"], before["last_error"]) == (1, "down")
    # When it answers again
    shelf.answers = None
    async with world.database.tenant(world.tenants["acme"].id, "test") as tx:
        await tx.execute("update statement_request set next_try_at = '-infinity'")
    await answer(world, shelf)
    # Then no slice is listed twice, and all of it is told
    later = [each["created"]["gte"] for each in shelf.asked[40:] if "created" in each]
    assert min(later) >= before["listed_upto"].timestamp()
    await whole(world, ledger, shelf, wanted)


async def test_an_account_of_which_a_day_is_too_long_fails_at_once(
    world: World, ledger: Database, shelf: Shelf
) -> None:
    # Given a day of more lines than are listed
    shelf.fill(3, 320)
    wanted = await ask(world)
    # When it is listed
    await answer(world, shelf)
    # Then it has failed without another try, says why, and nothing of it is kept
    (failed,) = [event.data for event in world.log.events(StripeStatement)]
    assert (failed.part, failed.parts, failed.error) == (0, 0, "list_too_long")
    row = await request_of(world, wanted)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert not await is_kept(world)
    async with ledger.tenant(world.tenants["acme"].id, "test") as tx:
        state = await tx.fetchval("select state from statement where id = $1", wanted.statement_id)
    assert state == "failed"
