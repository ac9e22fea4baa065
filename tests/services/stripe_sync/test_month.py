"""A month of a Stripe account: payments, refunds, disputes, payouts, three currencies, lost webhooks.

What the sandbox holds in the end, and what the ledger booked from events, agree in every movement and
to the cent.
"""

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.billing import InvoiceFinalized, InvoiceLine, InvoicePaid
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.stripe_sync import PaymentSucceeded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import new_id
from services.ledger import reconciling, store_breaks, store_reconciliations
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.ledger.reconciling_sides import Terms
from services.ledger.store_breaks import Wanted
from services.stripe_sync import allocating, jobs
from services.stripe_sync.statements import StatementWorker
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import Desk, open_desk

TERMS = Terms(
    every=timedelta(days=1), window=timedelta(days=30), settles_in=timedelta(0), repairs=True
)
CURRENCIES = ("eur", "usd", "gbp")
ROUNDS = 4


@pytest.fixture(params=["PLATFORM", "RAW_KEYS"])
async def desk(world: World, request: pytest.FixtureRequest) -> AsyncGenerator[Desk, None]:
    """A till on the platform's account and on a tenant's own."""
    async with AsyncExitStack() as stack:
        yield await open_desk(world, stack, request.param)


async def live_through(desk: Desk, chance: random.Random) -> None:
    """What happens on the account in some days; many of its webhooks are lost."""
    account = desk.account
    if desk.own is None:
        account = desk.world.sandbox.get("/v1/account", desk.world.key)["id"]
    for currency in CURRENCIES:
        paid = await desk.pay("bypassPending", chance.randrange(500, 9_000), currency=currency)
        await desk.pay(amount=chance.randrange(500, 9_000), currency=currency)
        part = chance.randrange(1, 400)
        given_back = await desk.post("refunds", payment_intent=paid["id"], amount=part)
        if chance.random() < 0.3:
            desk.happen(f"refunds/{given_back['id']}/settle", failure="lost_or_stolen_card")
    await desk.take(*chance.choice([(), ("payment_intent.succeeded",), ("charge.succeeded",)]))
    disputed = await desk.pay("createDispute", chance.randrange(500, 9_000))
    await desk.take()
    found = await (await desk.api()).get("x", "/v1/disputes", {"limit": 1})
    assert found["data"][0]["payment_intent"] == disputed["id"]
    won = chance.random() < 0.5
    desk.happen(f"disputes/{found['data'][0]['id']}/close", won=won)
    payout = desk.happen(f"accounts/{account}/payout", currency=chance.choice(CURRENCIES))
    desk.happen(f"payouts/{payout['id']}/settle")
    if chance.random() < 0.3:
        desk.happen(f"payouts/{payout['id']}/settle", failure="account_closed")
    await desk.take(*chance.choice([(), ("payout.paid",), ("nothing.at.all",)]))


async def compare(
    world: World, ledger: Database, account: str, owner: UUID
) -> tuple[Any, list[Any]]:
    """Compare an account with the books; the run, and the breaks that are not resolved."""
    now = utc_now()
    async with ledger.tenant(owner, "test") as tx:
        run_id = await reconciling.start(
            tx, account, now - TERMS.window, now, requested_by=None, now=now
        )
    await world.log.settle()
    worker = StatementWorker(world.database, world.identities)
    for key in await worker.due():
        await worker.answer(key)
    await world.log.settle()
    while await reconciling.advance(ledger, owner, "test", run_id, TERMS, utc_now()):
        pass
    await world.log.settle()
    async with ledger.tenant(owner, "test") as tx:
        run = await store_reconciliations.find(tx, run_id)
        wanted = Wanted(states=("open", "proposed", "accepted", "ignored"))
        return run, await store_breaks.list_breaks(tx, "test", owner, wanted, None, 100)


def tell_invoice(world: World, payment: Envelope[Any]) -> None:
    """What billing tells of the invoice that a payment pays."""
    fact: PaymentSucceeded = payment.data
    final = InvoiceFinalized(
        invoice_id=new_id(),
        number="1",
        customer_id=fact.customer_id,
        subscription_id=None,
        billed_by="platform",
        currency=fact.currency,
        subtotal_minor=fact.amount_minor,
        credits_applied_minor=0,
        tax_minor=0,
        total_minor=fact.amount_minor,
        lines=(
            InvoiceLine(
                line_id=new_id(), kind="flat", description="Fee", amount_minor=fact.amount_minor
            ),
        ),
        stripe_invoice_id=fact.stripe_invoice_id,
    )
    paid = InvoicePaid(
        invoice_id=final.invoice_id,
        number=final.number,
        customer_id=final.customer_id,
        currency=final.currency,
        paid_minor=final.total_minor,
        stripe_invoice_id=final.stripe_invoice_id,
        billed_by=final.billed_by,
    )
    for told in (final, paid):
        world.log.publish(
            wrap(
                told,
                tenant_id=payment.tenant_id,
                mode="test",
                source="billing",
                effective_at=utc_now(),
            )
        )


async def test_a_month_of_activity_agrees_to_the_cent(desk: Desk, world: World) -> None:
    chance = random.Random(7)
    for _ in range(ROUNDS):
        await live_through(desk, chance)
    # What no webhook told is found in Stripe's lists, which any later movement has read.
    last = await desk.pay(amount=1_000)
    await desk.post("refunds", payment_intent=last["id"], amount=1)
    await desk.take()
    await jobs.ask_for_transactions(world.database, world.identities)
    await world.settle()
    # Whose money the platform's payouts were made of moves nothing over all tenants.
    await allocating.allocate_due(world.database, Directory(world.database), world.identities)
    await world.settle()
    assert bool(world.log.events(PayoutAllocated)) == (desk.own is None)
    owner = PLATFORM_TENANT_ID if desk.own is None else desk.tenant.id
    async with world.test_database.open("ledger") as ledger:
        run, breaks = await compare(world, ledger, desk.account, owner)
    assert (run["state"], run["error"]) == ("completed", None)
    assert breaks == []
    assert (run["waiting_count"], run["matched_count"] > ROUNDS * 10) == (0, True)
    for balance in run["balances"]:
        assert balance["stripe_minor"] == balance["ledger_minor"], balance
        assert balance["unexplained_minor"] == 0


async def test_what_the_ledger_never_read_is_told_again_and_booked(world: World) -> None:
    # Given payments of two tenants, of which the ledger has read nothing,
    await world.plan()
    for slug in ("acme", "globex"):
        await world.subscribe(world.tenants[slug])
    world.log.topics["payments.events"].clear()
    async with world.test_database.open("ledger") as ledger:
        world.log.add(ledger, LEDGER_HANDLERS)
        # when the platform's account is compared, they are found and told again,
        run, breaks = await compare(world, ledger, "platform", PLATFORM_TENANT_ID)
        assert run["matched_count"] == 0
        assert {(each["kind"], each["state"]) for each in breaks} == {
            ("missing_in_ledger", "accepted")
        }
        assert len(breaks) == 2
        # and each is booked in its own tenant's book, beside the invoice that it pays.
        for payment in world.log.events(PaymentSucceeded):
            tell_invoice(world, payment)
        run, breaks = await compare(world, ledger, "platform", PLATFORM_TENANT_ID)
        assert (run["matched_count"], run["breaks_resolved"], breaks) == (2, 2, [])
        for slug in ("acme", "globex"):
            tenant = world.tenants[slug]
            async with ledger.tenant(tenant.id, "test", books=("platform",)) as tx:
                keys = await tx.fetch("select source_key from journal_entry")
                invoices = [row for row in keys if row["source_key"].startswith("invoice:")]
                assert (len(keys), len(invoices)) == (3, 1)
