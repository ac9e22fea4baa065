"""A tenant connects a Stripe account that has a past: what moved before is not recorded, told or booked."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from libs.clock import utc_now
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    DisputeChanged,
    PaymentSucceeded,
    StripeStatement,
)
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync import resync, store_marks
from services.stripe_sync.client import Json
from services.stripe_sync.marks import BALANCE
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import Desk
from tests.services.stripe_sync.healers import enrol
from tests.services.stripe_sync.test_month import compare

BEFORE = 3
MIGRATION = Path("services/stripe_sync/migrations/0033_begin_accounts.sql").read_text()


class Elsewhere:
    """The owner of the account, who knows nothing of us yet."""

    def __init__(self, own: Own) -> None:
        self._own = own

    def post(self, path: str, **data: Any) -> Json:
        """Write to the account."""
        answer = self._own.world.sandbox.client.post(
            f"/v1/{path}", data=data, headers={"authorization": f"Bearer {self._own.key}"}
        )
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def pay(self, method: str, amount: int) -> Json:
        """A payment."""
        return self.post(
            "payment_intents",
            amount=str(amount),
            currency="eur",
            payment_method=f"pm_card_{method}",
            confirm="true",
            return_url="https://shop.example/done",
        )


async def list_movements(world: World, desk: Desk) -> None:
    """Have the account's balance transactions listed."""
    async with world.database.tenant(desk.tenant.id, "test") as tx:
        await store_marks.mark(tx, desk.account, [BALANCE])
    await world.settle()


def statements(world: World) -> set[datetime | None]:
    """Since when the account is ours, as its statements say."""
    return {event.data.ours_from for event in world.log.events(StripeStatement)}


async def connect(own: Own, since: datetime) -> None:
    """Have the directory tell of the account, a moment after all that moved on it."""
    await own.give_keys(own.key)
    await own.tell(account_since=since)
    await own.world.settle()


async def test_an_account_with_a_past_agrees_whatever_is_heard_of_it(world: World) -> None:
    created = world.sandbox.client.post("/_sim/accounts", json={"name": "acme"}).json()
    own = Own(world, world.tenants["acme"], created["id"], created["secret_key"], "RAW_KEYS")
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(world.test_database.open("ledger"))
        world.log.add(ledger, LEDGER_HANDLERS)
        desk = Desk(world, own.tenant, own, own.account)
        # Given an account with payments, a refund, a dispute and a payout,
        owner = Elsewhere(own)
        paid = [owner.pay("bypassPending", 1_000 + number) for number in range(BEFORE)]
        owner.post("refunds", payment_intent=paid[0]["id"], amount="100")
        desk.happen(f"accounts/{own.account}/payout", currency="eur")
        owner.pay("bypassPending", 7_000)
        owner.pay("createDispute", 2_000)
        # which is connected then, and tells of all of that even so,
        await asyncio.sleep(1.1)
        since = utc_now()
        await connect(own, since)
        held = await desk.balance()
        await desk.take()
        # when more moves on it, some of it because of what was before,
        new = await desk.pay("bypassPending", 5_000)
        await desk.post("refunds", payment_intent=paid[1]["id"], amount=200)
        (dispute,) = (await (await desk.api()).get("x", "/v1/disputes", {}))["data"]
        desk.happen(f"disputes/{dispute['id']}/close", won=False)
        await desk.take()
        await list_movements(world, desk)
        # and everything is listed anew,
        async with world.database.tenant(desk.tenant.id, "test") as tx:
            await resync.start(tx, desk.account, requested_by="test", now=utc_now())
        await world.settle()
        # then only what moved since is told,
        began_at = since.replace(microsecond=0)
        recorded = desk.told(BalanceTransactionRecorded)
        assert sorted(each.kind for each in recorded) == ["charge", "refund"]
        assert min(each.created_at for each in recorded) >= began_at
        (payment,) = desk.told(PaymentSucceeded)
        assert payment.stripe_payment_intent_id == new["id"]
        lost = desk.told(DisputeChanged)[-1]
        assert (lost.status, lost.withdrawn_minor, lost.lost_minor) == ("lost", 0, None)
        # nothing is a break, and what was held at the connection is booked in the end.
        for _ in range(3):
            run, breaks = await compare(world, ledger, desk.account, desk.tenant.id)
            await world.settle()
            assert (run["matched_count"], run["breaks_found"], breaks) == (2, 0, [])
        assert {each["unexplained_minor"] for each in run["balances"]} == {0}
        (euros,) = [each for each in run["balances"] if each["currency"] == "EUR"]
        assert euros["stripe_minor"] == euros["ledger_minor"] == await desk.balance()
        assert -await desk.booked("equity:opening_balances") == held
        assert await desk.booked("expense:disputes_lost") == 0
        assert statements(world) == {began_at}
        assert len(desk.told(PaymentSucceeded)) == 1
        # Other keys, and the account connected anew, change nothing.
        await connect(own, since + timedelta(hours=1))
        run, breaks = await compare(world, ledger, desk.account, desk.tenant.id)
        assert (run["matched_count"], breaks) == (2, [])
        assert statements(world) == {began_at}


async def test_what_moved_while_nobody_looked_after_the_connection_is_ours(world: World) -> None:
    # Given an account whose record came hours late, and a payment that was made meanwhile,
    created = world.sandbox.client.post("/_sim/accounts", json={"name": "acme"}).json()
    own = Own(world, world.tenants["acme"], created["id"], created["secret_key"], "RAW_KEYS")
    Elsewhere(own).pay("visa", 3_000)
    since = utc_now() - timedelta(hours=3)
    # when it is listed for the first time,
    await connect(own, since)
    desk = Desk(world, own.tenant, own, own.account)
    await list_movements(world, desk)
    # then from the connection on.
    assert [each.amount_minor for each in desk.told(BalanceTransactionRecorded)] == [3_000]
    (cursor,) = await world.rows("transaction_cursor")
    assert cursor["listed_to"] > since
    (began,) = await world.rows("account_beginning")
    assert began["ours_from"] == since.replace(microsecond=0)


async def test_an_account_of_an_older_version_began_when_it_was_first_listed(world: World) -> None:
    own = await own_account(world, "acme")
    await world.watch.run_once()
    await enrol(world)
    walks = [row for row in await world.rows("walk") if row["account"] == own.account]
    enrolled_at = min(row["enrolled_at"] for row in walks)
    between = slice(MIGRATION.index("alter table seen"), MIGRATION.index("select isolate"))
    async with world.test_database.admin() as admin:
        await admin.execute("set search_path = stripe_sync")
        await admin.execute("delete from account_beginning")
        await admin.execute(MIGRATION[between])
    (began,) = await world.rows("account_beginning")
    assert (began["tenant_id"], began["account"]) == (own.tenant.id, own.account)
    assert began["ours_from"] == (enrolled_at - timedelta(minutes=15)).replace(microsecond=0)
