"""Telling money facts again: in the same words, under their owners, once, and what is unknown sought."""

from contextlib import AsyncExitStack
from typing import Any

from libs.clock import utc_now
from libs.contracts.ledger import TellTransactionsAgain
from libs.contracts.stripe_sync import BalanceTransactionRecorded, PaymentSucceeded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from services.stripe_sync import store_objects
from services.stripe_sync.payments import record_intent
from services.stripe_sync.requests import EXPANDED
from services.stripe_sync.store_objects import Owner
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import open_desk


def again(**changes: Any) -> TellTransactionsAgain:
    values: dict[str, Any] = {
        "request_id": new_id(),
        "account": "platform",
        "transactions": (),
        "charges": (),
    }
    return TellTransactionsAgain(**(values | changes))


def said(world: World, kind: Any, since: int = 0) -> list[tuple[Any, Any]]:
    """What was told of a type, with whom it was told of, since an event."""
    return [(each.tenant_id, each.data) for each in world.log.events(kind)[since:]]


def by_id(told: tuple[Any, Any]) -> str:
    """What orders movements for certain."""
    found: str = told[1].stripe_balance_transaction_id
    return found


async def test_what_is_recorded_is_told_in_the_same_words_once(world: World) -> None:
    await world.plan()
    for slug in ("acme", "globex"):
        await world.subscribe(world.tenants[slug])
    payments = said(world, PaymentSucceeded)
    transactions = said(world, BalanceTransactionRecorded)
    assert len(payments) == len(transactions) == 2
    wanted = again(
        transactions=tuple(fact.stripe_balance_transaction_id for _, fact in transactions),
        charges=(payments[0][1].stripe_charge_id,),
    )
    await world.publish(wanted, PLATFORM_TENANT_ID)
    await world.log.settle()
    # Movements of one second are told in the order of their ids, which are drawn by lot.
    told = said(world, BalanceTransactionRecorded, 2)
    assert sorted(told, key=by_id) == sorted(transactions, key=by_id)
    assert said(world, PaymentSucceeded, 2) == payments[:1]
    of_invoice = again(invoices=(payments[1][1].stripe_invoice_id, "in_unknown"))
    await world.publish(of_invoice, PLATFORM_TENANT_ID)
    assert said(world, PaymentSucceeded, 3) == payments[1:]
    assert ("invoice", "in_unknown") in {
        (row["object_type"], row["object_id"]) for row in await world.rows("dirty_object")
    }
    await world.publish(wanted, PLATFORM_TENANT_ID)
    await world.log.replay(clear_inboxes=True)
    assert len(world.log.events(BalanceTransactionRecorded)) == 4
    assert len(world.log.events(PaymentSucceeded)) == 4


async def test_what_was_recorded_before_is_told_by_its_columns(world: World) -> None:
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    ((tenant_id, told),) = said(world, BalanceTransactionRecorded)
    async with world.test_database.admin() as admin:
        await admin.execute("update stripe_sync.balance_transaction set told = null")
    wanted = again(transactions=(told.stripe_balance_transaction_id,))
    await world.publish(wanted, PLATFORM_TENANT_ID)
    before = told.model_copy(update={"reporting_category": None})
    assert said(world, BalanceTransactionRecorded, 1) == [(tenant_id, before)]


async def test_a_payment_that_its_invoice_was_found_of_later_is_told_as_it_was(
    world: World,
) -> None:
    async with AsyncExitStack() as stack:
        # Given a payment that was told, and booked, without its invoice
        desk = await open_desk(world, stack, "PLATFORM")
        acme = desk.tenant
        paid = await desk.pay()
        await desk.take()
        payments = said(world, PaymentSucceeded)
        assert [fact.stripe_invoice_id for _, fact in payments] == [None]
        intent = await world.api.get("x", f"/v1/payment_intents/{paid['id']}", EXPANDED)
        async with world.database.tenant(acme.id, "test") as tx:
            await store_objects.claim(tx, desk.account, "in_late", acme.customer_id)
            row = await record_intent(
                tx,
                desk.account,
                intent,
                Owner(acme.id, acme.customer_id),
                acme.customer_id,
                invoice_id="in_late",
                effective_at=utc_now(),
            )
        assert row["stripe_invoice_id"] == "in_late"
        await world.settle()
        # when it is told again, asked for by that invoice or by its charge
        await world.publish(again(invoices=("in_late",)), PLATFORM_TENANT_ID)
        await world.publish(again(charges=(paid["latest_charge"],)), PLATFORM_TENANT_ID)
        await world.settle()
        # then it is said as it was, and the ledger has it already.
        assert said(world, PaymentSucceeded) == payments * 3
        async with world.test_database.admin() as admin:
            assert await admin.fetchval("select count(*) from ledger.parked_key") == 0


async def test_nobody_has_another_accounts_facts_told(world: World) -> None:
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    ((_, payment),) = said(world, PaymentSucceeded)
    foreign = again(account="acct_globex", charges=(payment.stripe_charge_id,))
    await world.publish(foreign, world.tenants["globex"].id)
    await world.log.settle()
    assert len(said(world, PaymentSucceeded)) == 1


async def test_what_was_never_recorded_is_looked_for(world: World) -> None:
    await world.publish(
        again(transactions=("txn_unknown",), charges=("ch_unknown",)), PLATFORM_TENANT_ID
    )
    await world.log.settle()
    marked = await world.rows("dirty_object")
    assert {(row["object_type"], row["object_id"]) for row in marked} == {
        ("balance", "balance"),
        ("charge", "ch_unknown"),
    }
