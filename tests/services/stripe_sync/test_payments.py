"""Payments: one per intent, in every state Stripe knows, on every kind of account."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    PaymentFailed,
    PaymentSucceeded,
)
from libs.ids import new_id
from services.stripe_sync import store_payments
from services.stripe_sync.client import Json, StripeRefusedError
from services.stripe_sync.fetching import LISTED_FROM, Fetched
from services.stripe_sync.mirroring import Mirroring, Sighting
from services.stripe_sync.payments import record_intent
from services.stripe_sync.store_marks import Dirty
from services.stripe_sync.store_objects import Owner
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import KINDS, Desk, open_desk


@pytest.fixture(params=KINDS)
async def desk(world: World, request: pytest.FixtureRequest) -> AsyncGenerator[Desk, None]:
    """A till on each kind of account."""
    async with AsyncExitStack() as stack:
        yield await open_desk(world, stack, request.param)


async def test_every_state_has_its_name(desk: Desk) -> None:
    paid = await desk.pay()
    declined = await desk.pay("chargeDeclinedInsufficientFunds")
    asks = await desk.pay("threeDSecureRequired")
    waits = await desk.pay(None)
    held = await desk.pay(capture_method="manual")
    dropped = await desk.pay(capture_method="manual")
    await desk.post(f"payment_intents/{dropped['id']}/cancel")
    bank = await desk.post(
        "payment_methods",
        type="sepa_debit",
        sepa_debit={"iban": "DE89370400440532013000"},
        billing_details={"email": "ada@people.example", "name": "Ada"},
    )
    slow = await desk.post(
        "payment_intents",
        amount=1000,
        currency="eur",
        payment_method_types=["sepa_debit"],
        payment_method=bank["id"],
        confirm=True,
        **({"customer": desk.customer} if desk.customer else {}),
    )
    await desk.take()
    states = {
        intent["id"]: (await desk.payment(intent))["status"]
        for intent in (paid, declined, asks, waits, held, dropped, slow)
    }
    assert list(states.values()) == [
        "COMPLETED",
        "FAILED",
        "REQUIRES_ACTION",
        "PENDING",
        "AUTHORIZED",
        "CANCELED",
        "PROCESSING",
    ]
    assert (await desk.payment(declined))["failure_code"] == "card_declined"
    link = (await desk.payment(asks))["confirmation_url"]
    assert link.startswith(f"{desk.world.sandbox.url}/authenticate/")
    assert [fact.stripe_payment_intent_id for fact in desk.told(PaymentSucceeded)] == [paid["id"]]
    assert [fact.stripe_payment_intent_id for fact in desk.told(PaymentFailed)] == [declined["id"]]

    desk.happen(f"payment_intents/{asks['id']}/authenticate")
    desk.happen(f"payment_intents/{slow['id']}/settle")
    await desk.post(f"payment_intents/{held['id']}/capture", amount_to_capture=700)
    await desk.take()
    for intent, amount in ((asks, 1000), (slow, 1000), (held, 700)):
        payment = await desk.payment(intent)
        assert (payment["status"], payment["amount"]["amount_minor"]) == ("COMPLETED", amount)
        assert (payment["refunded"]["amount_minor"], payment["confirmation_url"]) == (0, None)
        assert payment["collected_by"] == ("tenant" if desk.own else "platform")
        assert payment["stripe_account"] == desk.account
    assert len(desk.told(PaymentSucceeded)) == 4
    assert len((await desk.get("payments"))["items"]) == 7
    assert await desk.booked() == await desk.balance() > 0
    assert await desk.get("payments?status=FAILED&limit=1")
    assert [
        item["stripe_payment_intent_id"]
        for item in (await desk.get("payments?status=CANCELED"))["items"]
    ] == [dropped["id"]]
    # Neither what lets a browser act nor what tells of people is kept.
    kept = str([row["raw"] for row in await desk.world.rows("stripe_object")])
    assert "_secret_" not in kept
    assert "ada@people.example" not in kept


async def test_attempts_that_fail_are_told_each_once_and_are_one_payment(desk: Desk) -> None:
    intent = await desk.pay("chargeDeclined")
    path = f"payment_intents/{intent['id']}/confirm"
    with pytest.raises(StripeRefusedError):
        await desk.post(path, payment_method="pm_card_chargeDeclinedExpiredCard")
    await desk.post(path, payment_method="pm_card_visa")
    # By now the intent shows its last charge alone: the others are told by their own events.
    await desk.take()
    assert {fact.failure_code for fact in desk.told(PaymentFailed)} == {
        "card_declined",
        "expired_card",
    }
    assert len({fact.attempt_key for fact in desk.told(PaymentFailed)}) == 2
    (succeeded,) = desk.told(PaymentSucceeded)
    payment = await desk.payment(intent)
    assert (payment["status"], payment["failure_code"]) == ("COMPLETED", None)
    assert payment["stripe_charge_id"] == succeeded.stripe_charge_id
    before, sent = await desk.world.checksum(), len(await desk.world.rows("outbox"))
    for clear in (False, True):
        await desk.world.log.replay(clear_inboxes=clear)
        await desk.world.settle()
        assert await desk.world.checksum() == before
        assert len(await desk.world.rows("outbox")) == sent


async def test_a_payment_link_stands_on_what_was_paid_through_it(desk: Desk) -> None:
    product = await desk.post("products", name="Tea")
    price = await desk.post("prices", product=product["id"], unit_amount=500, currency="eur")
    data = {"metadata": {"tenant_id": str(desk.tenant.id)}}
    link = await desk.post(
        "payment_links",
        line_items=[{"price": price["id"], "quantity": 2}],
        payment_intent_data=data,
    )

    def follow() -> None:
        page = desk.world.sandbox.client.get(f"/pay/{link['id']}", follow_redirects=False)
        desk.world.sandbox.pay(page.headers["location"].rpartition("/")[2].partition("?")[0])

    follow()
    # Whichever event comes first: the origin is looked up before anything is said.
    await desk.take("charge.succeeded")
    (paid,) = desk.told(PaymentSucceeded)
    assert (paid.stripe_payment_link_id, paid.amount_minor) == (link["id"], 1000)
    (payment,) = (await desk.get("payments"))["items"]
    assert payment["stripe_payment_link_id"] == link["id"]
    # Many at once are looked up in one list, among payments of no link.
    for _ in range(LISTED_FROM):
        follow()
    alone = await desk.pay()
    await desk.take("payment_intent.succeeded")
    links = [fact.stripe_payment_link_id for fact in desk.told(PaymentSucceeded)]
    assert (links.count(link["id"]), links.count(None)) == (1 + LISTED_FROM, 1)
    assert (await desk.payment(alone))["stripe_payment_link_id"] is None


def row_of_ours(desk: Desk, payment_id: Any, customer_id: Any) -> Json:
    """A payment entered before Stripe is called."""
    return dict.fromkeys(store_payments.PAYMENT_COLUMNS) | {
        "payment_id": payment_id,
        "account": desk.account,
        "collected_by": "tenant" if desk.own else "platform",
        "customer_id": customer_id,
        "origin_known": False,
        "status": "UNKNOWN",
        "amount_minor": 1000,
        "refunded_minor": 0,
        "currency": "EUR",
        "disputed": False,
        "created_at": utc_now(),
    }


async def test_a_row_of_ours_is_the_payment_that_its_intent_names(desk: Desk) -> None:
    world, ours, theirs, customer = desk.world, new_id(), new_id(), new_id()
    globex = world.tenants["globex"]
    for tenant, payment_id in ((desk.tenant, ours), (globex, theirs)):
        async with world.database.tenant(tenant.id, "test") as tx:
            await store_payments.write_payment(tx, row_of_ours(desk, payment_id, customer))
    named = await desk.pay(metadata={"payment_id": str(ours), "tenant_id": str(desk.tenant.id)})
    again = await desk.pay(metadata={"payment_id": str(ours), "tenant_id": str(desk.tenant.id)})
    forged = await desk.pay(metadata={"payment_id": str(theirs), "tenant_id": str(desk.tenant.id)})
    await desk.take()
    assert (await desk.payment(named))["id"] == f"pay_{ours}"
    assert (await desk.payment(named))["customer_id"] == f"cus_{customer}"
    assert (await desk.payment(again))["id"] != f"pay_{ours}"
    assert (await desk.payment(forged))["id"] != f"pay_{theirs}"
    (untouched,) = [row for row in await world.rows("payment") if row["payment_id"] == theirs]
    assert (untouched["status"], untouched["stripe_payment_intent_id"]) == ("UNKNOWN", None)
    assert len(desk.told(PaymentSucceeded)) == 3


async def test_an_answer_of_stripe_is_a_payment_at_once_and_said_once(desk: Desk) -> None:
    intent = await desk.pay(expand=["latest_charge.balance_transaction"])
    asked = await desk.pay("threeDSecureRequired")
    owner = Owner(desk.tenant.id, desk.tenant.customer_id)
    for answer in (intent, asked, intent):
        async with desk.world.database.tenant(desk.tenant.id, "test") as tx:
            row = await record_intent(
                tx,
                desk.account,
                answer,
                owner,
                desk.tenant.customer_id,
                invoice_id=None,
                effective_at=utc_now(),
            )
    assert row["status"] == "COMPLETED"
    await desk.world.settle()
    await desk.take()
    # An answer that is older than what is known takes nothing back.
    async with desk.world.database.tenant(desk.tenant.id, "test") as tx:
        stale = intent | {"status": "processing", "latest_charge": None}
        row = await record_intent(
            tx,
            desk.account,
            stale,
            owner,
            desk.tenant.customer_id,
            invoice_id=None,
            effective_at=utc_now(),
        )
    assert row["status"] == "COMPLETED"
    await desk.world.settle()
    assert len(desk.told(PaymentSucceeded)) == 1
    assert len(desk.told(BalanceTransactionRecorded)) == 1
    assert (await desk.payment(asked))["status"] == "REQUIRES_ACTION"


async def test_a_charge_without_an_intent_is_a_payment_of_its_own(world: World) -> None:
    async with AsyncExitStack() as stack:
        desk = await open_desk(world, stack, "PLATFORM")
        intent = await desk.pay(expand=["latest_charge.balance_transaction"])
        charge = intent["latest_charge"] | {"payment_intent": None}
        found = Fetched(charge["id"], charge)
        owner = Owner(desk.tenant.id, desk.tenant.customer_id)
        mark = Dirty("charge", charge["id"], ((desk.tenant.id, 1),), 0)
        seen = Sighting(mark, found, owner, owner.customer_id, utc_now())
        for _ in range(2):
            async with world.database.transaction() as tx:
                await Mirroring(tx, "platform", "test").run([seen])
        await world.log.settle()
        (paid,) = desk.told(PaymentSucceeded)
        assert (paid.stripe_charge_id, paid.stripe_payment_intent_id) == (charge["id"], None)
        assert len(desk.told(BalanceTransactionRecorded)) == 1
        (payment,) = (await desk.get("payments"))["items"]
        assert (payment["status"], payment["stripe_payment_intent_id"]) == ("COMPLETED", None)
