"""Every object the sandbox shows is one the SDK declares."""

from typing import Any

import httpx
import pytest
import stripe

from .conftest import Tenant
from .shapes import complaints
from .test_life import subscribed

LISTS = (
    "customers",
    "products",
    "prices",
    "invoices",
    "invoiceitems",
    "invoice_payments",
    "payment_intents",
    "payment_methods",
    "charges",
    "refunds",
    "balance_transactions",
    "checkout/sessions",
    "test_helpers/test_clocks",
    "webhook_endpoints",
    "events",
)


async def lived(tenant: Tenant) -> None:
    """Bring about one of everything."""
    v1, sim = tenant.v1, tenant.sim
    clock, customer, subscription = await subscribed(sim, v1)
    await sim.advance(v1, clock.id, subscription["items"].data[0].current_period_end + 300)
    (draft,) = (await v1.invoices.list_async({"status": "draft"})).data
    await v1.invoice_items.create_async(
        {"customer": customer.id, "invoice": draft.id, "amount": 100, "currency": "eur"}
    )
    await v1.invoices.finalize_invoice_async(draft.id, {"auto_advance": True})
    wish = {"amount": 1000, "currency": "eur", "confirm": True}
    paid = await v1.payment_intents.create_async({**wish, "payment_method": "pm_card_visa"})
    await v1.refunds.create_async({"payment_intent": paid.id, "amount": 300})
    await v1.payment_intents.create_async(
        {**wish, "payment_method": "pm_card_threeDSecure2Required"}
    )
    with pytest.raises(stripe.CardError):
        await v1.payment_intents.create_async({**wish, "payment_method": "pm_card_chargeDeclined"})
    await v1.customers.create_async({"email": "x@example.com", "address": {"country": "DE"}})
    await v1.webhook_endpoints.create_async(
        {"url": "http://127.0.0.1:9/", "enabled_events": ["payout.paid"]}
    )


async def fetch(tenant: Tenant, path: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=tenant.sim.url, timeout=60, trust_env=False) as http:
        answer = await http.get(f"/v1/{path}", headers={"Authorization": f"Bearer {tenant.key}"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_answers_have_the_shapes_the_sdk_declares(tenant: Tenant) -> None:
    await lived(tenant)
    found = complaints(await fetch(tenant, "account")) + complaints(await fetch(tenant, "balance"))
    for path in LISTS:
        listed = await fetch(tenant, f"{path}?limit=100")
        assert listed["data"], path
        for obj in listed["data"]:
            found += complaints(obj)
            if obj["object"] == "event":
                found += complaints(obj["data"]["object"])
    for clock in (await fetch(tenant, "test_helpers/test_clocks"))["data"]:
        for path in ("customers", "subscriptions"):
            on_clock = await fetch(tenant, f"{path}?test_clock={clock['id']}")
            assert on_clock["data"]
            found += [complaint for obj in on_clock["data"] for complaint in complaints(obj)]
    assert sorted(set(found)) == []


async def test_expanded_answers_too(tenant: Tenant) -> None:
    await lived(tenant)
    expands = {
        "invoices": "data.payments.data.payment.payment_intent&expand[]=data.customer",
        "charges": "data.balance_transaction&expand[]=data.refunds&expand[]=data.payment_intent",
        "checkout/sessions": "data.line_items&expand[]=data.subscription.latest_invoice",
        "customers": "data.subscriptions",
    }
    found = []
    for path, expand in expands.items():
        listed = await fetch(tenant, f"{path}?expand[]={expand}")
        found += [complaint for obj in listed["data"] for complaint in complaints(obj)]
    assert sorted(set(found)) == []


async def test_the_check_itself_sees_what_is_wrong(tenant: Tenant) -> None:
    customer = await tenant.v1.customers.create_async({})
    shown = await fetch(tenant, f"customers/{customer.id}")
    assert complaints(shown) == []
    del shown["created"]
    wrong = {**shown, "planet": "Earth", "name": 7, "invoice_settings": {"colour": "red"}}
    assert sorted(complaints(wrong)) == [
        "Customer.created: missing",
        "Customer.invoice_settings.colour: not declared",
        "Customer.name: 7 is not <class 'str'>",
        "Customer.planet: not declared",
    ]
