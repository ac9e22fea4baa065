"""Refunds: never more than is left, in the account of the payment, whatever fails; and receipts."""

import asyncio
from typing import Any

import pytest

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import ConnectionRecord
from libs.money import Money
from services.stripe_sync.fees import application_fee
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import KINDS, Shop, open_shop


@pytest.fixture(params=KINDS)
async def shop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, world: World
) -> Shop:
    """A tenant's shop on the platform's account, a connected one, and one with keys of its own."""
    settings = world.app.state.settings.model_copy(update={"platform_fallback": "test"})
    monkeypatch.setattr(world.app.state, "settings", settings)
    return await open_shop(world, request.param)


def eur(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "EUR"}


async def paid(shop: Shop) -> str:
    """The id of a payment of 25.00 EUR."""
    answer = await shop.pay()
    assert answer.status_code == 201, answer.text
    payment: str = answer.json()["id"]
    return payment


async def test_a_part_then_the_rest_then_nothing(shop: Shop) -> None:
    payment = await paid(shop)
    part = await shop.post(
        "refunds", {"payment": payment, "amount": eur(1000), "reason": "requested_by_customer"}
    )
    assert part.status_code == 201, part.text
    assert (part.json()["status"], part.json()["amount"]) == ("succeeded", eur(1000))
    assert (part.json()["payment_id"], part.json()["stripe_account"]) == (payment, shop.account)
    more = await shop.post("refunds", {"payment": payment, "amount": eur(1501)})
    assert (more.status_code, more.json()["code"]) == (409, "refund_exceeds_payment")
    assert more.json()["left"] == eur(1500)
    rest = await shop.post("refunds", {"payment": payment})
    assert (rest.status_code, rest.json()["amount"]) == (201, eur(1500))
    none = await shop.post("refunds", {"payment": payment})
    assert (none.status_code, none.json()["code"]) == (409, "payment_not_refundable")
    await shop.take_webhooks()
    known = await shop.get(f"payments/{payment}")
    assert (known["status"], known["refunded"]) == ("REFUNDED", eur(2500))
    listed = (await shop.get(f"refunds?payment={payment}"))["items"]
    assert [item["amount"]["amount_minor"] for item in listed] == [1500, 1000]
    assert {item["status"] for item in listed} == {"succeeded"}
    at_stripe = shop.listed("refunds")
    assert sorted(refund["amount"] for refund in at_stripe) == [1000, 1500]
    assert all(refund["metadata"]["tenant_id"] == str(shop.tenant.id) for refund in at_stripe)
    actions = [e.data.action for e in shop.world.log.events(ConfigurationChanged)]
    assert actions.count("payment.refund_requested") == 2


async def test_of_many_who_ask_at_once_one_gets_it(shop: Shop) -> None:
    payment = await paid(shop)
    answers = await asyncio.gather(*(shop.post("refunds", {"payment": payment}) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]
    assert [refund["amount"] for refund in shop.listed("refunds")] == [2500]
    other = await paid(shop)
    body = {"payment": other, "amount": eur(900)}
    answers = await asyncio.gather(*(shop.post("refunds", body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409, 409, 409]
    assert len(shop.listed("refunds")) == 3


async def test_the_same_key_gives_back_once(shop: Shop) -> None:
    payment = await paid(shop)
    body = {"payment": payment, "amount": eur(100)}
    answers = await asyncio.gather(*(shop.post("refunds", body, once="r-1") for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {201, 202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await shop.post("refunds", body, once="r-1")).status_code == 201
    assert [refund["amount"] for refund in shop.listed("refunds")] == [100]


@pytest.mark.parametrize("shop", ["PLATFORM"], indirect=True)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_refund_nobody_answered_for_counts_until_it_is_known(
    shop: Shop, moment: str
) -> None:
    world, payment = shop.world, await paid(shop)
    for method, when in (("POST", moment), ("GET", "before")):
        world.sandbox.fault(
            kind="error", status=500, moment=when, method=method, path="/v1/refunds"
        )
    lost = await shop.post("refunds", {"payment": payment, "amount": eur(2000)}, once="r-1")
    assert (lost.status_code, lost.json()["status"]) == (202, "unknown"), lost.text
    more = await shop.post("refunds", {"payment": payment, "amount": eur(600)})
    assert (more.status_code, more.json()["code"]) == (409, "refund_exceeds_payment")
    world.sandbox.mend()
    await shop.settle_requests()
    known = await shop.get(f"refunds/{lost.json()['id']}")
    assert known["status"] == "succeeded"
    await shop.take_webhooks()
    assert [refund["amount"] for refund in shop.listed("refunds")] == [2000]
    assert len((await shop.get("refunds"))["items"]) == 1
    again = await shop.post("refunds", {"payment": payment, "amount": eur(2000)}, once="r-1")
    assert (again.status_code, again.json()["id"]) == (201, known["id"])


async def test_what_stripe_refuses_is_left_to_give_back(shop: Shop) -> None:
    payment = await paid(shop)
    found = await shop.get(f"payments/{payment}")
    shop.world.sandbox.client.post(f"/_sim/charges/{found['stripe_charge_id']}/dispute", json={})
    answer = await shop.post("refunds", {"payment": payment})
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_refused"), answer.text
    assert answer.json()["stripe_code"] == "charge_disputed"
    (refund,) = (await shop.get("refunds"))["items"]
    assert (refund["status"], refund["failure_reason"]) == ("failed", "charge_disputed")


async def test_what_was_not_paid_is_not_given_back(shop: Shop) -> None:
    begun = (await shop.begin()).json()["id"]
    answer = await shop.post("refunds", {"payment": begun})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_not_refundable")
    assert (await shop.post("refunds", {"payment": "pay_x"})).status_code == 404
    payment = await paid(shop)
    dollars = {"payment": payment, "amount": {"amount_minor": 1, "currency": "USD"}}
    assert (await shop.post("refunds", dollars)).status_code == 422
    stranger = await open_shop(shop.world, "RAW_KEYS", "globex")
    assert (await stranger.post("refunds", {"payment": payment})).status_code == 404


async def test_the_platforms_share_goes_back_in_proportion(world: World) -> None:
    shop = await open_shop(world, "CONNECT_STANDARD")
    assert shop.own is not None
    await shop.own.tell(
        application_fee_basis_points=1000,
        application_fee_fixed_minor=30,
        application_fee_currency="EUR",
    )
    world.app.state.directory._cache.clear()
    payment = await paid(shop)
    (intent,) = shop.listed("payment_intents")
    assert intent["application_fee_amount"] == 250 + 30
    answer = await shop.post("refunds", {"payment": payment, "amount": eur(1250)})
    assert answer.status_code == 201, answer.text
    (fee,) = world.sandbox.get("/v1/application_fees", world.key)["data"]
    assert (fee["amount"], fee["amount_refunded"]) == (280, 140)
    assert (await shop.post("refunds", {"payment": payment})).status_code == 201
    (fee,) = world.sandbox.get("/v1/application_fees", world.key)["data"]
    assert fee["amount_refunded"] == 280


async def test_what_the_platform_was_paid_its_staff_gives_back(world: World) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    staff = world.tenants["platform"]
    owed = await shop.pay(customer=None)
    assert (owed.status_code, owed.json()["stripe_account"]) == (201, "platform")
    body = {"payment": owed.json()["id"]}
    refused = await shop.post("refunds", body)
    assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
    held = (await shop.pay(customer=None, capture="manual")).json()["id"]
    for step in ("capture", "cancel"):
        assert (await shop.post(f"payment-intents/{held}/{step}")).status_code == 403
    assert world.sandbox.get("/v1/refunds", world.key)["data"] == []
    shop.tenant = staff
    given = await shop.post("refunds", body | {"tenant_id": "acme"})
    assert given.status_code == 201, given.text


@pytest.mark.parametrize(
    ("fee", "amount", "expected"),
    [
        ({}, Money(2500, "EUR"), 0),
        ({"application_fee_basis_points": 250}, Money(2500, "EUR"), 62),
        ({"application_fee_basis_points": 10_000}, Money(7, "EUR"), 7),
        (
            {"application_fee_fixed_minor": 30, "application_fee_currency": "EUR"},
            Money(2500, "EUR"),
            30,
        ),
        (
            {"application_fee_fixed_minor": 30, "application_fee_currency": "USD"},
            Money(2500, "EUR"),
            0,
        ),
        (
            {"application_fee_fixed_minor": 30, "application_fee_currency": "EUR"},
            Money(10, "EUR"),
            10,
        ),
        ({"application_fee_basis_points": 250}, Money(12_340, "KWD"), 300),
        ({"application_fee_basis_points": 250, "kind": "RAW_KEYS"}, Money(2500, "EUR"), 0),
    ],
)
def test_the_platforms_share(fee: dict[str, Any], amount: Money, expected: int) -> None:
    values = {
        "connection_id": "00000000-0000-7000-8000-000000000009",
        "mode": "test",
        "kind": "CONNECT_STANDARD",
        "status": "CONNECTED",
    }
    connection = ConnectionRecord.model_validate(values | fee)
    assert application_fee(connection, amount) == Money(expected, amount.currency)
    assert application_fee(None, amount).amount_minor == 0


async def test_a_receipt_is_sent_again(shop: Shop) -> None:
    payment = await paid(shop)
    assert (await shop.post(f"payments/{payment}/receipt")).status_code == 422
    answer = await shop.post(f"payments/{payment}/receipt", {"email": "ada@people.example"})
    assert answer.status_code == 200, answer.text
    assert (await shop.post(f"payments/{payment}/receipt")).status_code == 200
    sent = answer.json()
    assert sent["receipt_email"] == "ada@people.example"
    assert sent["receipt_number"]
    assert sent["receipt_url"]
    (charge,) = shop.listed("charges")
    assert charge["receipt_email"] == "ada@people.example"
    await shop.take_webhooks()
    assert (await shop.get(f"payments/{payment}"))["receipt_email"] == "ada@people.example"
    told = [e.data for e in shop.world.log.events(ConfigurationChanged)]
    assert [fact.action for fact in told].count("payment.receipt_sent") == 2
    assert not [fact for fact in told if "ada@" in fact.model_dump_json()]
    begun = (await shop.begin()).json()["id"]
    early = await shop.post(f"payments/{begun}/receipt", {"email": "ada@people.example"})
    assert (early.status_code, early.json()["code"]) == (409, "payment_not_paid")
