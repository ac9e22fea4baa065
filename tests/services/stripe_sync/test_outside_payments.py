"""Money that never touched Stripe: recorded once, by whoever received it, and told of once."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.clock import format_time, utc_now
from libs.contracts.stripe_sync import OutsidePaymentRecorded, StripeInvoiceChanged
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import EUR, KINDS, Shop, open_shop

MIGRATION = Path("services/stripe_sync/migrations/0037_date_what_was_never_dated.sql").read_text()


@pytest.fixture(params=KINDS)
async def shop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, world: World
) -> Shop:
    settings = world.app.state.settings.model_copy(update={"platform_fallback": "test"})
    monkeypatch.setattr(world.app.state, "settings", settings)
    return await open_shop(world, request.param)


def wish(shop: Shop, **body: Any) -> dict[str, Any]:
    return {"customer": shop.customer, "amount": EUR, "reference": "transfer 4711"} | body


async def told(shop: Shop) -> list[OutsidePaymentRecorded]:
    await shop.world.log.settle()
    return [each.data for each in shop.world.log.events(OutsidePaymentRecorded)]


async def open_invoice(shop: Shop) -> dict[str, Any]:
    """An open invoice of 25.00 EUR for the shop's customer, in whichever account."""
    # The customer stands at Stripe once something was begun for it.
    assert (await shop.begin()).status_code == 201
    customer = shop.listed("payment_intents")[0]["customer"]
    return make_invoice(shop, customer)


def make_invoice(shop: Shop, customer: str) -> dict[str, Any]:
    def post(path: str, **data: Any) -> Any:
        headers = {"authorization": f"Bearer {shop.key}"}
        answer = shop.world.sandbox.client.post(f"/v1/{path}", data=data, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    draft = post(
        "invoices",
        customer=customer,
        currency="eur",
        collection_method="send_invoice",
        days_until_due=14,
    )
    post("invoiceitems", customer=customer, invoice=draft["id"], amount=2500, currency="eur")
    made: dict[str, Any] = post(f"invoices/{draft['id']}/finalize", auto_advance="false")
    return made


async def test_a_transfer_is_recorded_once_and_belongs_to_no_invoice(shop: Shop) -> None:
    at = format_time(utc_now() - timedelta(days=2))
    first = await shop.post("payments", wish(shop, paid_at=at))
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["status"], body["stripe_account"], body["amount"]) == ("COMPLETED", "outside", EUR)
    assert (body["collected_by"], body["paid_at"]) == ("tenant", at)
    again = await shop.post("payments", wish(shop, paid_at=at))
    assert (again.status_code, again.json()["id"]) == (201, body["id"])
    other = {"amount_minor": 2501, "currency": "EUR"}
    refused = await shop.post("payments", wish(shop, amount=other))
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_recorded")
    (fact,) = await told(shop)
    assert (fact.stripe_invoice_id, fact.reference) == (None, "transfer 4711")
    assert (await shop.get("payments"))["items"] == [body]
    # And nothing of it can be given back by Stripe.
    refund = await shop.post("refunds", {"payment": body["id"]})
    assert (refund.status_code, refund.json()["code"]) == (409, "paid_outside")


async def test_an_invoice_paid_outside_is_paid_at_stripe(shop: Shop) -> None:
    invoice = await open_invoice(shop)
    short = await shop.post(
        "payments",
        wish(shop, stripe_invoice_id=invoice["id"], amount={"amount_minor": 1, "currency": "EUR"}),
    )
    assert (short.status_code, short.json()["code"]) == (409, "invoice_not_payable")
    answer = await shop.post("payments", wish(shop, stripe_invoice_id=invoice["id"]))
    assert answer.status_code == 201, answer.text
    assert answer.json()["stripe_invoice_id"] == invoice["id"]
    assert shop.at_stripe(f"invoices/{invoice['id']}")["status"] == "paid"
    await shop.take_webhooks()
    (fact,) = await told(shop)
    assert fact.stripe_invoice_id == invoice["id"]
    states = [each.data.status for each in shop.world.log.events(StripeInvoiceChanged)]
    assert states[-1] == "paid"
    late = await shop.post(
        "payments", wish(shop, reference="another", stripe_invoice_id=invoice["id"])
    )
    assert (late.status_code, late.json()["code"]) == (409, "invoice_not_payable")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_without_an_answer_a_worker_finds_out(shop: Shop, moment: str) -> None:
    invoice = await open_invoice(shop)
    shop.world.sandbox.fault(
        kind="error", status=503, stored=False, moment=moment, method="POST", path="/v1/invoices"
    )
    answer = await shop.post("payments", wish(shop, stripe_invoice_id=invoice["id"]))
    # Where only the answer was lost, the look before the second try has found it.
    status = "UNKNOWN" if moment == "before" else "COMPLETED"
    assert (answer.status_code, answer.json()["status"]) == (201, status)
    assert len(await told(shop)) == (status == "COMPLETED")
    shop.world.sandbox.mend()
    await shop.settle_requests()
    (fact,) = await told(shop)
    assert fact.stripe_invoice_id == invoice["id"]
    assert shop.at_stripe(f"invoices/{invoice['id']}")["status"] == "paid"
    known = await shop.get(f"payments/{answer.json()['id']}")
    assert known["status"] == "COMPLETED"


async def test_paid_twice_the_money_stands_unapplied(shop: Shop) -> None:
    """The payer's card was charged between our look and our call."""
    invoice = await open_invoice(shop)
    shop.world.sandbox.fault(
        kind="error", status=500, stored=False, moment="before", method="POST", path="/v1/invoices"
    )
    answer = await shop.post("payments", wish(shop, stripe_invoice_id=invoice["id"]))
    assert answer.json()["status"] == "UNKNOWN"
    shop.world.sandbox.mend()
    paid = shop.world.sandbox.client.post(
        f"/v1/invoices/{invoice['id']}/pay",
        data={"payment_method": "pm_card_visa"},
        headers={"authorization": f"Bearer {shop.key}"},
    )
    assert paid.status_code == 200, paid.text
    await shop.settle_requests()
    (fact,) = await told(shop)
    assert fact.stripe_invoice_id is None
    known = await shop.get(f"payments/{answer.json()['id']}")
    assert (known["status"], known["stripe_invoice_id"]) == ("COMPLETED", None)


async def test_what_is_paid_to_the_platform_its_staff_records(world: World) -> None:
    acme, operator = world.tenants["acme"], world.tenants["platform"]
    body = {"amount": EUR, "reference": "wire 1", "tenant_id": "acme"}

    async def record(key: str, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {key}"}
        return await world.http.post("/api/v1/payments", json=body | more, headers=headers)

    assert (await record(acme.key)).status_code == 403
    recorded = await record(operator.key)
    assert recorded.status_code == 201, recorded.text
    assert recorded.json()["collected_by"] == "platform"
    future = format_time(utc_now() + timedelta(days=1))
    assert (await record(operator.key, reference="wire 2", paid_at=future)).status_code == 422
    odd = await record(operator.key, reference="wire 3", stripe_invoice_id="in_nobody")
    assert (odd.status_code, odd.json()["code"]) == (409, "invoice_not_payable")
    assert await world.rows("payment_request") == []


async def test_another_customer_s_invoice_is_not_there(shop: Shop) -> None:
    invoice = await open_invoice(shop)
    shop.customer_id = await shop.enter_customer("Grace Hopper")
    answer = await shop.post("payments", wish(shop, stripe_invoice_id=invoice["id"]))
    assert (answer.status_code, answer.json()["code"]) == (409, "invoice_not_payable")
    assert shop.at_stripe(f"invoices/{invoice['id']}")["status"] == "open"


@pytest.mark.parametrize(
    "paid_at",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T14:00:00+14:00",
        "0001-01-02T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999Z",
    ],
)
async def test_a_time_never_set_is_refused_before_stripe_is_called(
    world: World, paid_at: str
) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    invoice = await open_invoice(shop)
    before = await world.rows("payment")
    answer = await shop.post(
        "payments", wish(shop, stripe_invoice_id=invoice["id"], paid_at=paid_at)
    )
    assert answer.status_code == 422, answer.text
    assert shop.at_stripe(f"invoices/{invoice['id']}")["status"] == "open"
    assert await world.rows("payment") == before
    assert (await shop.post("payments", wish(shop, paid_at=paid_at))).status_code == 422
    first = await shop.post("payments", wish(shop, paid_at="2000-01-01T00:00:00Z"))
    assert first.json()["paid_at"] == "2000-01-01T00:00:00Z"


async def test_what_was_kept_with_no_time_is_told_of_after_the_migration(world: World) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    invoice = await open_invoice(shop)
    world.sandbox.fault(
        kind="error", status=503, stored=False, moment="before", method="POST", path="/v1/invoices"
    )
    unknown = await shop.post("payments", wish(shop, stripe_invoice_id=invoice["id"]))
    assert unknown.json()["status"] == "UNKNOWN"
    world.sandbox.mend()
    async with world.test_database.admin() as admin:
        await admin.execute("set search_path to stripe_sync")
        await admin.execute("update payment set paid_at = '-infinity' where account = 'outside'")
        await admin.execute(MIGRATION)
        forced = await admin.fetchval(
            "select relforcerowsecurity from pg_class where oid = 'payment'::regclass"
        )
    assert forced
    await shop.settle_requests()
    (fact,) = await told(shop)
    assert fact.stripe_invoice_id == invoice["id"]
    (kept,) = [row for row in await world.rows("payment") if row["account"] == "outside"]
    assert (fact.paid_at, kept["status"]) == (kept["created_at"], "COMPLETED")
