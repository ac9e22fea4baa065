"""Statements: listed afresh from Stripe, in parts that are proved whole, kept by the ledger."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import StripeStatement, statement_digest
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.ids import new_id
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync import statements, store_statements
from services.stripe_sync.statements import StatementWorker
from tests.services.stripe_sync.accounts import own_account
from tests.services.stripe_sync.conftest import World


@pytest.fixture
async def ledger(world: World) -> AsyncGenerator[Database, None]:
    """The ledger beside stripe_sync, on the same log."""
    async with world.test_database.open("ledger") as opened:
        world.log.add(opened, LEDGER_HANDLERS)
        yield opened


def of_today(account: str, **changes: Any) -> StatementRequested:
    values: dict[str, Any] = {
        "statement_id": new_id(),
        "account": account,
        "listed_from": utc_now() - timedelta(days=1),
        "listed_to": utc_now() + timedelta(minutes=1),
    }
    return StatementRequested(**(values | changes))


async def answer(world: World) -> None:
    """Answer what is due."""
    worker = StatementWorker(world.database, world.identities)
    for key in await worker.due():
        await worker.answer(key)
    await world.log.settle()


async def kept(ledger: Database, tenant_id: Any, statement_id: Any) -> dict[str, Any]:
    async with ledger.tenant(tenant_id, "test") as tx:
        row = await tx.fetchrow("select * from statement where id = $1", statement_id)
    return dict(row) if row else {}


async def test_a_statement_is_what_stripe_lists_and_not_what_the_mirror_has(
    world: World, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "ENTRIES_PER_PART", 2)
    await world.plan()
    for slug in ("acme", "globex"):
        started = await world.checkout(world.tenants[slug])
        world.sandbox.pay(started.json()["session_id"])
    post, headers = world.sandbox.client.post, {"authorization": f"Bearer {world.key}"}
    account = world.sandbox.get("/v1/account", world.key)["id"]
    post(f"/_sim/accounts/{account}/release", json={})
    payout = post("/v1/payouts", data={"amount": "1000", "currency": "eur"}, headers=headers)
    assert payout.status_code == 200, payout.text
    wanted = of_today("platform")
    await world.publish(wanted, PLATFORM_TENANT_ID)
    await answer(world)
    parts = [event.data for event in world.log.events(StripeStatement)]
    assert [(part.part, part.parts) for part in parts] == [(1, 2), (2, 2)]
    lines = [line for part in parts for line in part.lines]
    payouts = [each for part in parts for each in part.payouts]
    assert [line.kind for line in lines] == ["charge", "charge", "payout"]
    assert [each.stripe_payout_id for each in payouts] == [payout.json()["id"]]
    assert {part.digest for part in parts} == {statement_digest(lines, payouts)}
    assert {(part.line_count, part.payout_count) for part in parts} == {(3, 1)}
    assert await world.rows("balance_transaction") == [], "nothing came by the mirror"
    (balance,) = [each for each in parts[0].balances if each.currency == "EUR"]
    assert balance.available_minor + balance.pending_minor == sum(line.net_minor for line in lines)
    row = await kept(ledger, PLATFORM_TENANT_ID, wanted.statement_id)
    assert (row["state"], row["line_count"], row["digest"]) == ("complete", 3, parts[0].digest)
    await world.log.replay(clear_inboxes=True)
    await answer(world)
    assert len(world.log.events(StripeStatement)) == 2
    assert await kept(ledger, PLATFORM_TENANT_ID, wanted.statement_id) == row


async def test_a_line_says_with_which_payout_it_left_once_stripe_does(world: World) -> None:
    await world.plan()
    post, account = world.sandbox.client.post, world.sandbox.get("/v1/account", world.key)["id"]
    payout = {}
    for slug in ("acme", "globex"):
        world.sandbox.pay((await world.checkout(world.tenants[slug])).json()["session_id"])
        if slug == "acme":
            post(f"/_sim/accounts/{account}/release", json={})
            payout = post(f"/_sim/accounts/{account}/payout", json={"currency": "eur"}).json()
    told = []
    for settles in (True, False):
        await world.publish(of_today("platform"), PLATFORM_TENANT_ID)
        await answer(world)
        lines = world.log.events(StripeStatement)[-1].data.lines
        told.append([(line.kind, line.payout_id) for line in lines])
        if settles:
            post(f"/_sim/payouts/{payout['id']}/settle", json={})
    kinds = ("charge", "payout", "charge")
    assert told[0] == [(kind, None) for kind in kinds]
    assert told[1] == list(zip(kinds, (payout["id"], payout["id"], None), strict=True))


async def test_an_account_without_movements_has_an_empty_statement(
    world: World, ledger: Database
) -> None:
    own = await own_account(world, "acme")
    wanted = of_today(own.account)
    await world.publish(wanted, own.tenant.id)
    await answer(world)
    (part,) = [event.data for event in world.log.events(StripeStatement)]
    assert (part.part, part.parts, part.line_count, part.digest) == (
        1,
        1,
        0,
        statement_digest((), ()),
    )
    row = await kept(ledger, own.tenant.id, wanted.statement_id)
    assert row["state"] == "complete"


async def test_anothers_account_is_never_listed_and_the_request_fails_in_the_end(
    world: World, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "PAUSE_SECONDS_MIN", 0.0)
    own = await own_account(world, "acme")
    wanted = of_today(own.account)
    strange = of_today("platform")
    await world.publish(wanted, world.tenants["globex"].id)
    await world.publish(strange, world.tenants["globex"].id)
    for _ in range(statements.ATTEMPTS_MAX):
        assert world.log.events(StripeStatement) == []
        await answer(world)
    failed = {event.data.statement_id: event.data for event in world.log.events(StripeStatement)}
    assert failed.keys() == {wanted.statement_id, strange.statement_id}
    for fact in failed.values():
        assert (fact.part, fact.parts, fact.error, fact.lines) == (0, 0, "not_connected", ())
        row = await kept(ledger, world.tenants["globex"].id, fact.statement_id)
        assert (row["state"], row["error"]) == ("failed", "not_connected")


async def test_a_rate_limit_puts_a_statement_off_and_tells_no_part_of_it(world: World) -> None:
    own = await own_account(world, "acme")
    world.sandbox.fault(kind="error", status=500, path="/v1/payouts", count=3)
    wanted = of_today(own.account)
    await world.publish(wanted, own.tenant.id)
    await answer(world)
    assert world.log.events(StripeStatement) == []
    async with world.database.tenant(own.tenant.id, "test") as tx:
        await tx.execute("update statement_request set next_try_at = '-infinity'")
        assert await store_statements.read(tx, wanted.statement_id) is not None
    await answer(world)
    assert len(world.log.events(StripeStatement)) == 1
