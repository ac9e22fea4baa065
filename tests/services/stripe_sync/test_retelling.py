"""Telling money facts again: in the same words, under their owners, once, and what is unknown sought."""

from typing import Any

from libs.contracts.ledger import TellTransactionsAgain
from libs.contracts.stripe_sync import BalanceTransactionRecorded, PaymentSucceeded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from tests.services.stripe_sync.conftest import World


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
    assert said(world, BalanceTransactionRecorded, 2) == transactions
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
