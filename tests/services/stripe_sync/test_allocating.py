"""Whose money a payout of the platform's account is made of: told once, and taken back with it."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory
from services.stripe_sync import allocating
from services.stripe_sync.client import Json
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import Desk, open_desk

CLEARING, BANK = "asset:stripe_clearing:platform", "asset:bank"


class Till:
    """The platform's account, into which two tenants pay."""

    def __init__(self, acme: Desk, globex: Desk) -> None:
        self.acme, self.globex, self.world = acme, globex, acme.world

    async def pay_out(self) -> Json:
        """Both pay, one gets some back, and Stripe pays out all there is."""
        paid = await self.acme.pay("bypassPending", amount=5000)
        await self.globex.pay("bypassPending", amount=3000)
        await self.acme.post("refunds", payment_intent=paid["id"], amount=700)
        await self.acme.take()
        return await self.pay_out_again()

    async def pay_out_again(self) -> Json:
        """Stripe pays out what there is, be it what came back."""
        account = self.world.sandbox.get("/v1/account", self.world.key)["id"]
        payout = self.acme.happen(f"accounts/{account}/payout", currency="eur")
        await self.acme.take()
        return payout

    async def allocate(self) -> list[PayoutAllocated]:
        """What is due is told; everything that was told so far, the parts in their order."""
        world = self.world
        await allocating.allocate_due(world.database, Directory(world.database), world.identities)
        await world.settle()
        told = [event.data for event in world.log.events(PayoutAllocated)]
        return sorted(told, key=lambda fact: (fact.taken_back, fact.part))

    async def settle(self, payout: Json, **how: Any) -> None:
        self.acme.happen(f"payouts/{payout['id']}/settle", **how)
        await self.acme.take()

    async def standing(self, code: str) -> dict[str, int]:
        """What stands on an account, by tenant, without zeros."""
        names = {each.id: name for name, each in self.world.tenants.items()}
        async with self.world.test_database.admin() as admin:
            rows = await admin.fetch(
                "select tenant_id, (debit_minor - credit_minor)::bigint as net "
                "from ledger.account_balance where account = $1 and debit_minor <> credit_minor",
                code,
            )
        return {names.get(row["tenant_id"], "?"): row["net"] for row in rows}

    async def state(self) -> str:
        async with self.world.test_database.admin() as admin:
            found: str = await admin.fetchval("select state from stripe_sync.payout_allocation")
        return found


@pytest.fixture
async def till(world: World) -> AsyncGenerator[Till, None]:
    async with AsyncExitStack() as stack:
        acme = await open_desk(world, stack, "PLATFORM")
        globex = Desk(world, world.tenants["globex"], None, "platform")
        metadata = {
            "tenant_id": str(globex.tenant.id),
            "customer_id": str(globex.tenant.customer_id),
        }
        made = await globex.post("customers", name="Globex", metadata=metadata)
        globex.customer = made["id"]
        yield Till(acme, globex)


async def test_each_tenants_money_leaves_with_its_own_books(till: Till) -> None:
    """Not before Stripe has put the payout together; then once. All of it comes back when it fails."""
    payout = await till.pay_out()
    assert await till.allocate() == []
    before = await till.standing(CLEARING)
    assert before["acme"] + before["globex"] == -before["platform"] == payout["amount"]
    await till.settle(payout)
    told = await till.allocate()
    assert await till.allocate() == told
    assert {fact.stripe_payout_id for fact in told} == {payout["id"]}
    assert [(fact.part, fact.parts) for fact in told] == [(1, 3), (2, 3), (3, 3)]
    assert sum(fact.share_minor for fact in told) == payout["amount"]
    assert sum(fact.booked_minor for fact in told) == payout["amount"]
    assert await till.standing(CLEARING) == {}
    assert await till.standing(BANK) == {name: before[name] for name in ("acme", "globex")}

    await till.settle(payout, failure="account_closed")
    back = (await till.allocate())[3:]
    assert [fact.taken_back for fact in back] == [True] * 3
    assert [fact.share_minor for fact in back] == [-fact.share_minor for fact in told]
    assert await till.standing(BANK) == {}
    assert await till.standing(CLEARING) == {name: before[name] for name in ("acme", "globex")}
    assert await till.state() == "taken_back"
    assert await till.acme.booked() == await till.acme.balance()
    await till.world.log.replay(clear_inboxes=True)
    assert len(await till.allocate()) == 6

    await till.settle(await till.pay_out_again())
    again = [fact for fact in await till.allocate() if fact.stripe_payout_id != payout["id"]]
    assert [fact.share_minor for fact in again] == [fact.share_minor for fact in told]
    assert await till.standing(CLEARING) == {}
    assert await till.standing(BANK) == {name: before[name] for name in ("acme", "globex")}


async def test_a_payout_that_comes_back_before_it_was_told_needs_nothing(till: Till) -> None:
    payout = await till.pay_out()
    await till.settle(payout, failure="account_closed")
    assert await till.allocate() == []
    assert await till.state() == "needless"
    before = await till.standing(CLEARING)
    assert "platform" not in before

    # Its money leaves with the next one, or where that comes back too, with the one after it.
    await till.settle(await till.pay_out_again(), failure="account_closed")
    assert await till.allocate() == []
    await till.settle(await till.pay_out_again())
    assert sum(fact.share_minor for fact in await till.allocate()) == payout["amount"]
    assert await till.standing(CLEARING) == {}
    assert await till.standing(BANK) == before


async def test_nothing_that_came_back_of_a_manual_payout_is_a_tenants(till: Till) -> None:
    """Stripe lists no parts of it."""
    world = till.world
    await till.acme.pay("bypassPending", amount=5000)
    manual = await till.acme.post("payouts", amount=1000, currency="eur")
    await till.settle(manual, failure="account_closed")
    identity = await world.identities.of("platform", "test")
    assert identity is not None
    row: Any = {"tenant_id": PLATFORM_TENANT_ID, "mode": "test", "account": "platform"}
    back = {"source": manual["id"]}
    assert await allocating._returned(world.database, identity, row, back, depth=0) == {}
    with pytest.raises(allocating.NotYetError):
        deepest = allocating.RETURNS_DEPTH_MAX
        await allocating._returned(world.database, identity, row, back, deepest)


async def test_what_cannot_be_told_is_tried_later_and_given_up_until_news_of_it(till: Till) -> None:
    payout = await till.pay_out()
    assert await till.allocate() == []
    async with till.world.test_database.admin() as admin:
        row = await admin.fetchrow("select * from stripe_sync.payout_allocation")
        assert (row["attempts"], row["last_error"]) == (1, allocating.NOT_COMPLETE)
        assert row["tenant_id"] == PLATFORM_TENANT_ID
        await admin.execute(
            "update stripe_sync.payout_allocation set attempts = $1, next_try_at = now()",
            allocating.ATTEMPTS_MAX - 1,
        )
    assert await till.allocate() == []
    assert await till.state() == "failed"
    assert await till.allocate() == []
    await till.settle(payout)
    assert len(await till.allocate()) == 3
    assert await till.state() == "told"
