"""Refunds, disputes and payouts: mirrored, told on difference, listed, and booked to the cent."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    DisputeChanged,
    PayoutChanged,
    RefundChanged,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID
from services.stripe_sync import jobs
from services.stripe_sync.client import Json
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import KINDS, Desk, open_desk


@pytest.fixture(params=KINDS)
async def desk(world: World, request: pytest.FixtureRequest) -> AsyncGenerator[Desk, None]:
    """A till on each kind of account."""
    async with AsyncExitStack() as stack:
        yield await open_desk(world, stack, request.param)


async def refund(desk: Desk, intent: Json, **params: Any) -> Json:
    """Give money back at Stripe."""
    return await desk.post("refunds", payment_intent=intent["id"], **params)


async def replayed(desk: Desk) -> None:
    """Everything again from the beginning changes nothing."""
    looked = {"transaction_cursor": "", "dirty_object": ""}
    before, sent = await desk.world.checksum(), len(await desk.world.rows("outbox"))
    for clear in (False, True):
        await desk.world.log.replay(clear_inboxes=clear)
        await desk.world.settle()
        assert await desk.world.checksum() | looked == before | looked
        assert len(await desk.world.rows("outbox")) == sent


async def test_refunds_in_part_in_full_and_in_vain(desk: Desk) -> None:
    intent = await desk.pay(amount=1000)
    first = await refund(desk, intent, amount=300, reason="duplicate")
    await desk.take()
    payment = await desk.payment(intent)
    assert (payment["status"], payment["refunded"]["amount_minor"]) == ("PARTIALLY_REFUNDED", 300)
    second = await refund(desk, intent)
    await desk.take()
    assert (await desk.payment(intent))["status"] == "REFUNDED"
    listed = (await desk.get(f"refunds?payment={payment['id']}"))["items"]
    assert [(item["stripe_refund_id"], item["amount"]["amount_minor"]) for item in listed] == [
        (second["id"], 700),
        (first["id"], 300),
    ]
    assert (listed[1]["status"], listed[1]["reason"]) == ("succeeded", "duplicate")
    assert listed[0]["payment_id"] == payment["id"]
    assert await desk.get(f"refunds/{listed[0]['id']}") == listed[0]
    assert await desk.booked() == await desk.balance()
    assert await desk.booked("revenue:refunds") == 1000

    desk.happen(f"refunds/{second['id']}/settle", failure="expired_or_canceled_card")
    await desk.take()
    payment = await desk.payment(intent)
    assert (payment["status"], payment["refunded"]["amount_minor"]) == ("PARTIALLY_REFUNDED", 300)
    (failed,) = (await desk.get("refunds?status=failed"))["items"]
    assert failed["failure_reason"] == "expired_or_canceled_card"
    told = [(fact.stripe_refund_id, fact.version, fact.status) for fact in desk.told(RefundChanged)]
    assert told == [
        (first["id"], 1, "succeeded"),
        (second["id"], 1, "succeeded"),
        (second["id"], 2, "failed"),
    ]
    assert {str(fact.payment_id) for fact in desk.told(RefundChanged)} == {
        payment["id"].partition("_")[2]
    }
    assert await desk.booked() == await desk.balance()
    assert await desk.booked("revenue:refunds") == 300
    assert await desk.booked("revenue:refunds", book="tenant" if desk.own else "platform") == 300
    await replayed(desk)


async def test_a_refund_whose_events_are_lost_is_found_by_its_movement(desk: Desk) -> None:
    intent = await desk.pay()
    await desk.take()
    made = await refund(desk, intent, amount=400)
    assert await desk.take("nothing.at.all") == []
    if desk.own is None:
        await jobs.ask_for_transactions(desk.world.database, desk.world.identities)
    else:
        # Any later movement has the list read.
        await refund(desk, intent, amount=1)
        await desk.take("refund.created")
    await desk.world.settle()
    assert made["id"] in {item["stripe_refund_id"] for item in (await desk.get("refunds"))["items"]}
    assert (await desk.payment(intent))["refunded"]["amount_minor"] >= 400
    assert await desk.booked() == await desk.balance()


async def test_a_refund_that_is_known_before_its_payment_waits_for_it(desk: Desk) -> None:
    intent = await desk.pay()
    await refund(desk, intent, amount=250)
    await desk.take("charge.refund.updated", "refund.created")
    (item,) = (await desk.get("refunds"))["items"]
    payment = await desk.payment(intent)
    assert item["payment_id"] == payment["id"]
    (fact,) = desk.told(RefundChanged)
    assert (fact.version, fact.payment_id is not None) == (1, True)


@pytest.mark.parametrize("won", [True, False], ids=["won", "lost"])
async def test_a_dispute_takes_money_and_brings_it_back_when_it_is_won(
    desk: Desk, won: bool
) -> None:
    intent = await desk.pay("createDispute", amount=2000)
    await desk.take()
    payment = await desk.payment(intent)
    assert (payment["status"], payment["disputed"]) == ("COMPLETED", True)
    (item,) = (await desk.get("disputes?status=needs_response"))["items"]
    assert (item["reason"], item["amount"]["amount_minor"]) == ("fraudulent", 2000)
    assert (item["payment_id"], item["evidence_due_at"] is not None) == (payment["id"], True)
    assert await desk.booked() == await desk.balance()
    assert await desk.booked("expense:disputes") == 2000

    await desk.post(
        f"disputes/{item['stripe_dispute_id']}",
        evidence={"customer_name": "Ada Lovelace", "uncategorized_text": "She was here."},
    )
    desk.happen(f"disputes/{item['stripe_dispute_id']}/close", won=won)
    await desk.take()
    (item,) = (await desk.get(f"disputes?payment={payment['id']}"))["items"]
    assert item["status"] == ("won" if won else "lost")
    assert await desk.get(f"disputes/{item['id']}") == item
    assert [fact.version for fact in desk.told(DisputeChanged)] == list(
        range(1, len(desk.told(DisputeChanged)) + 1)
    )
    last = desk.told(DisputeChanged)[-1]
    assert (last.status, last.lost_before_minor) == (item["status"], None)
    assert last.lost_minor == (None if won else 2000)
    assert await desk.booked() == await desk.balance()
    assert await desk.booked("expense:disputes") == 0
    assert await desk.booked("expense:disputes_lost") == (0 if won else 2000)
    assert await desk.booked("expense:dispute_fees") == 1500
    kept = str([row["raw"] for row in await desk.world.rows("stripe_object")])
    assert "Ada Lovelace" not in kept
    await replayed(desk)


def failed_payouts() -> float:
    """How many payouts this process has seen fail."""
    return REGISTRY.get_sample_value("sluice_payouts_failed_total", {"mode": "test"}) or 0.0


async def test_payouts_arrive_or_come_back(desk: Desk) -> None:
    world, account = desk.world, desk.account
    if desk.own is None:
        account = world.sandbox.get("/v1/account", world.key)["id"]
    await desk.pay("bypassPending", amount=5000)
    first = desk.happen(f"accounts/{account}/payout", currency="eur")
    await desk.take()
    holder = world.tenants["platform" if desk.own is None else "acme"]
    listed = await world.get(holder, "/api/v1/payouts?status=pending")
    (item,) = listed.json()["items"]
    assert (item["stripe_payout_id"], item["automatic"]) == (first["id"], True)
    assert item["tenant_id"] == str(PLATFORM_TENANT_ID if desk.own is None else desk.tenant.id)
    assert item["arrival_on"] > item["created_at"][:10]
    assert await desk.booked() == await desk.balance() == 0

    before = failed_payouts()
    desk.happen(f"payouts/{first['id']}/settle")
    await desk.take()
    desk.happen(f"payouts/{first['id']}/settle", failure="account_closed")
    await desk.take()
    (item,) = (await world.get(holder, "/api/v1/payouts")).json()["items"]
    assert (item["status"], item["failure_code"]) == ("failed", "account_closed")
    assert item["failure_message"]
    assert (await world.get(holder, f"/api/v1/payouts/{item['id']}")).json() == item
    facts = [event.data for event in world.log.events(PayoutChanged)]
    assert [fact.status for fact in facts] == ["pending", "paid", "failed"]
    assert [fact.version for fact in facts] == [1, 2, 3]
    assert failed_payouts() == before + 1
    assert await desk.booked() == await desk.balance() > 0
    assert await desk.booked("asset:bank") == 0
    # The platform's staff see every account's; another tenant sees nothing.
    everywhere = await world.get(world.tenants["platform"], "/api/v1/payouts")
    assert everywhere.json()["items"] == [item]
    for path in ("payouts", "refunds", "disputes"):
        other = await world.get(world.tenants["globex"], f"/api/v1/{path}")
        assert other.json() == {"items": [], "next_cursor": None}
    stranger = await world.get(world.tenants["globex"], f"/api/v1/payouts/{item['id']}")
    assert stranger.status_code == 404
    await replayed(desk)
    assert failed_payouts() == before + 1


async def test_odd_questions_are_refused(world: World) -> None:
    acme = world.tenants["acme"]
    for path, status in {
        "payments?status=completed": 422,
        "payments?customer=cus_1": 422,
        "refunds?payment=pay_1": 422,
        "disputes?status=odd": 422,
        "payouts?limit=0": 422,
        "payouts?cursor=odd": 400,
        "refunds/ref_1": 404,
        "disputes/pay_00000000-0000-0000-0000-000000000000": 404,
        "payouts/%00": 400,
    }.items():
        answer = await world.get(acme, f"/api/v1/{path}")
        assert answer.status_code == status, (path, answer.text)


async def test_what_moved_before_is_told_once_however_often_it_is_listed(desk: Desk) -> None:
    intent = await desk.pay()
    await refund(desk, intent, amount=100)
    await desk.take()
    for _ in range(2):
        await jobs.ask_for_transactions(desk.world.database, desk.world.identities)
        await desk.world.settle()
    assert [fact.kind for fact in desk.told(BalanceTransactionRecorded)] == ["charge", "refund"]
