"""Every family of events changes what it should, each taken alone: all other webhooks are lost."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from libs.contracts.envelope import Fact
from libs.contracts.stripe_accounts import StripeAccountChanged, StripeAccountDeauthorized
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    DisputeChanged,
    PaymentFailed,
    PaymentSucceeded,
    PayoutChanged,
    RefundChanged,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from tests.services.stripe_sync.conftest import DECLINED_LATER, GOOD_CARD, World
from tests.services.stripe_sync.desk import Desk, open_desk

Act = Callable[[Desk], Awaitable[None]]


async def buy(desk: Desk, card: str = GOOD_CARD) -> Any:
    """Subscribe on a checkout page; the customer's link."""
    await desk.world.plan()
    answer = await desk.world.checkout(desk.tenant)
    desk.world.sandbox.pay(answer.json()["session_id"], card)
    (link,) = await desk.world.rows("customer_link")
    return link["stripe_customer_id"]


async def bought(desk: Desk) -> None:
    await buy(desk)


def subscription(desk: Desk) -> str:
    """The one there is: Stripe lists none whose customer lives on a test clock."""
    events = desk.world.sandbox.events(desk.world.key)
    (found,) = [each for each in events if each["type"] == "customer.subscription.created"]
    object_id: str = found["data"]["object"]["id"]
    return object_id


async def cancel(desk: Desk) -> None:
    await buy(desk)
    headers = {"authorization": f"Bearer {desk.world.key}"}
    desk.world.sandbox.client.delete(f"/v1/subscriptions/{subscription(desk)}", headers=headers)


async def change(desk: Desk) -> None:
    await buy(desk)
    await desk.post(f"subscriptions/{subscription(desk)}", cancel_at_period_end=True)


async def fail_to_renew(desk: Desk) -> None:
    customer = await buy(desk, DECLINED_LATER)
    draft = await desk.post(
        "invoices", customer=customer, subscription=subscription(desk), auto_advance=False
    )
    await desk.post(
        "invoiceitems", customer=customer, invoice=draft["id"], amount=700, currency="eur"
    )
    await desk.post(f"invoices/{draft['id']}/finalize", auto_advance=True)


async def paid(desk: Desk) -> None:
    await desk.pay()


async def declined(desk: Desk) -> None:
    await desk.pay("chargeDeclined")


async def refunded(desk: Desk) -> None:
    intent = await desk.pay()
    await desk.post("refunds", payment_intent=intent["id"], amount=400)


async def refund_failed(desk: Desk) -> None:
    intent = await desk.pay()
    made = await desk.post("refunds", payment_intent=intent["id"], amount=400)
    desk.happen(f"refunds/{made['id']}/settle", failure="expired_or_canceled_card")


async def disputed(desk: Desk) -> None:
    await desk.pay("createDispute")


async def dispute_won(desk: Desk) -> None:
    await desk.pay("createDispute")
    (found,) = (await (await desk.api()).get("x", "/v1/disputes"))["data"]
    desk.happen(f"disputes/{found['id']}/close", won=True)


async def paid_out(desk: Desk) -> None:
    await desk.pay("bypassPending", amount=5000)
    found = desk.happen(f"accounts/{desk.account}/payout", currency="eur")
    desk.happen(f"payouts/{found['id']}/settle")


async def payout_failed(desk: Desk) -> None:
    await desk.pay("bypassPending", amount=5000)
    found = desk.happen(f"accounts/{desk.account}/payout", currency="eur")
    desk.happen(f"payouts/{found['id']}/settle", failure="no_account")


async def restricted(desk: Desk) -> None:
    desk.happen(f"accounts/{desk.account}", ready=False)


async def withdrawn(desk: Desk) -> None:
    desk.happen(f"accounts/{desk.account}/disconnect")
    assert desk.own is not None
    await desk.own.tell(status="REVOKED")


Effects = dict[type[Fact], int]
SUBSCRIBED: Effects = {StripeSubscriptionChanged: 1}
COLLECTED: Effects = {StripeInvoiceChanged: 1, PaymentSucceeded: 1, BalanceTransactionRecorded: 1}
RECEIVED: Effects = {PaymentSucceeded: 1, BalanceTransactionRecorded: 1}

FAMILIES: dict[str, tuple[str, Act, Effects]] = {
    "checkout.session.completed": ("PLATFORM", bought, SUBSCRIBED | COLLECTED),
    "customer.subscription.created": ("PLATFORM", bought, SUBSCRIBED),
    "customer.subscription.updated": ("PLATFORM", change, SUBSCRIBED),
    "customer.subscription.deleted": ("PLATFORM", cancel, SUBSCRIBED),
    "invoice.paid": ("PLATFORM", bought, COLLECTED),
    "invoice_payment.paid": ("PLATFORM", bought, COLLECTED),
    "invoice.paid invoice_payment.paid": ("PLATFORM", bought, COLLECTED),
    "invoice.payment_failed": (
        "PLATFORM",
        fail_to_renew,
        {StripeInvoiceChanged: 1, PaymentFailed: 1, PaymentSucceeded: 0},
    ),
    "payment_intent.succeeded": ("CONNECT_STANDARD", paid, RECEIVED),
    "charge.succeeded": ("CONNECT_STANDARD", paid, RECEIVED),
    "payment_intent.payment_failed": ("CONNECT_STANDARD", declined, {PaymentFailed: 1}),
    "charge.failed": ("CONNECT_STANDARD", declined, {PaymentFailed: 1}),
    "charge.refunded": (
        "CONNECT_STANDARD",
        refunded,
        {PaymentSucceeded: 1, RefundChanged: 1, BalanceTransactionRecorded: 2},
    ),
    "refund.created": (
        "CONNECT_STANDARD",
        refunded,
        {PaymentSucceeded: 1, RefundChanged: 1, BalanceTransactionRecorded: 2},
    ),
    "refund.failed": (
        "CONNECT_STANDARD",
        refund_failed,
        {PaymentSucceeded: 1, RefundChanged: 1, BalanceTransactionRecorded: 3},
    ),
    "charge.dispute.created": (
        "CONNECT_STANDARD",
        disputed,
        {PaymentSucceeded: 1, DisputeChanged: 1, BalanceTransactionRecorded: 2},
    ),
    "charge.dispute.closed": (
        "CONNECT_STANDARD",
        dispute_won,
        {PaymentSucceeded: 1, DisputeChanged: 1, BalanceTransactionRecorded: 3},
    ),
    "charge.dispute.funds_reinstated": (
        "CONNECT_STANDARD",
        dispute_won,
        {PaymentSucceeded: 1, DisputeChanged: 1, BalanceTransactionRecorded: 3},
    ),
    "payout.paid": (
        "CONNECT_STANDARD",
        paid_out,
        {PayoutChanged: 1, BalanceTransactionRecorded: 2, PaymentSucceeded: 1},
    ),
    "payout.failed": (
        "CONNECT_STANDARD",
        payout_failed,
        {PayoutChanged: 1, BalanceTransactionRecorded: 3, PaymentSucceeded: 1},
    ),
    "account.updated": ("CONNECT_STANDARD", restricted, {StripeAccountChanged: 2}),
    "account.application.deauthorized": (
        "CONNECT_STANDARD",
        withdrawn,
        {StripeAccountDeauthorized: 1},
    ),
}
"""Event types that come, on whose account, after what, and how many facts they lead to by then.

What moved money is listed by Stripe, so that even the payment comes to light whose events were lost.
"""


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_family_alone_has_its_effect_once(world: World, family: str) -> None:
    kind, act, wanted = FAMILIES[family]
    async with AsyncExitStack() as stack:
        desk = await open_desk(world, stack, kind)
        await act(desk)
        assert set(await desk.take(*family.split())) == set(family.split())
        await desk.world.settle()
        told = {fact: len(desk.told(fact)) for fact in wanted}
        assert told == wanted
        if BalanceTransactionRecorded in wanted:
            assert await desk.booked() == await desk.balance()
            assert await desk.booked(book="tenant" if desk.own else "platform") == (
                await desk.balance()
            )
        if act is withdrawn:
            # Replays of a connection that has ended are tried in test_identities.
            return
        looked = {"transaction_cursor": "", "dirty_object": ""}
        before, sent = await world.checksum() | looked, len(await world.rows("outbox"))
        await world.log.replay(clear_inboxes=True)
        await world.settle()
        assert await world.checksum() | looked == before
        assert len(await world.rows("outbox")) == sent


async def test_a_subscription_says_what_became_of_it(world: World) -> None:
    async with AsyncExitStack() as stack:
        desk = await open_desk(world, stack, "PLATFORM")
        await change(desk)
        await desk.take()
        headers = {"authorization": f"Bearer {world.key}"}
        world.sandbox.client.delete(f"/v1/subscriptions/{subscription(desk)}", headers=headers)
        await desk.take("customer.subscription.deleted")
        kind = StripeSubscriptionChanged
        said = [(each.status, each.cancel_at_period_end) for each in desk.told(kind)]
        assert said[0] == ("active", True)
        assert said[-1][0] == "canceled"
