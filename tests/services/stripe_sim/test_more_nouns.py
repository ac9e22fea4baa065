"""Setup intents, search, meters, credit notes, customer balance, tax ids, restricted keys."""

import time
from typing import Any

import httpx
import pytest
import stripe

from services.stripe_sim.settings import SettingsError, read_settings

from .conftest import Tenant
from .test_changes import HOUR, period, started
from .test_life import balance_agrees, on_clock
from .test_money import shapes_fit


async def test_saving_a_card_without_a_payment(tenant: Tenant) -> None:
    v1 = tenant.v1
    customer = await v1.customers.create_async({})
    done = await v1.setup_intents.create_async(
        {"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True}
    )
    assert done.status == "succeeded"
    (method,) = (await v1.customers.payment_methods.list_async(customer.id)).data
    assert method.id == done.payment_method
    with pytest.raises(stripe.CardError):
        await v1.setup_intents.create_async(
            {"customer": customer.id, "payment_method": "pm_card_chargeDeclined", "confirm": True}
        )
    asked = await v1.setup_intents.create_async(
        {
            "customer": customer.id,
            "payment_method": "pm_card_authenticationRequiredOnSetup",
            "confirm": True,
        }
    )
    assert asked.status == "requires_action"
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        await browser.post(asked.next_action.redirect_to_url.url, data={"challenge": "complete"})
    asked = await v1.setup_intents.retrieve_async(asked.id)
    assert asked.status == "succeeded"
    later = await v1.payment_intents.create_async(
        {
            "amount": 1000,
            "currency": "eur",
            "customer": customer.id,
            "payment_method": asked.payment_method,
            "off_session": True,
            "confirm": True,
        }
    )
    assert later.status == "succeeded"
    await shapes_fit(tenant, "setup_intents", "payment_methods")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('metadata["command_id"]:"c1"', ["A"]),
        ("metadata['command_id']:'c1' OR name:'B'", ["B", "A"]),
        ('name~"a" AND email:"a@example.com"', ["A"]),
        ('-name:"A"', ["C", "B"]),
        ("created>1000", ["C", "B", "A"]),
        ("created<1000", []),
        ("email:null", ["C", "B"]),
    ],
)
async def test_search(tenant: Tenant, query: str, found: list[str]) -> None:
    v1 = tenant.v1
    await v1.customers.create_async(
        {"name": "A", "email": "a@example.com", "metadata": {"command_id": "c1"}}
    )
    await v1.customers.create_async({"name": "B", "metadata": {"command_id": "c2"}})
    await v1.customers.create_async({"name": "C"})
    result = await v1.customers.search_async({"query": query})
    assert [customer.name for customer in result.data] == found


@pytest.mark.parametrize("query", ["", "name", "name:", 'a:"b" XOR c:"d"', "'", '"' * 99, "(" * 99])
async def test_a_query_that_cannot_be_read(tenant: Tenant, query: str) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await tenant.v1.customers.search_async({"query": query})


async def test_metered_usage_is_billed_with_the_renewal(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    meter = await v1.billing.meters.create_async(
        {
            "display_name": "Calls",
            "event_name": "calls",
            "default_aggregation": {"formula": "sum"},
        }
    )
    product = await v1.products.create_async({"name": "API"})
    price = await v1.prices.create_async(
        {
            "product": product.id,
            "currency": "eur",
            "unit_amount_decimal": "0.5",
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    clock, customer = await on_clock(v1)
    method = await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    subscription = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_payment_method": method.id,
        }
    )
    assert subscription.status == "active"
    start, end = period(subscription)
    event: dict[str, Any] = {
        "event_name": "calls",
        "payload": {"stripe_customer_id": customer.id, "value": "100"},
        "identifier": "one",
        "timestamp": start + 10,
    }
    await v1.billing.meter_events.create_async(event)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        await v1.billing.meter_events.create_async(event)
    await v1.billing.meter_events.create_async({**event, "identifier": "two"})
    summaries = await v1.billing.meters.event_summaries.list_async(
        meter.id, {"customer": customer.id, "start_time": start, "end_time": end}
    )
    assert summaries.data[0].aggregated_value == 200
    with pytest.raises(stripe.InvalidRequestError, match="35 days"):
        await v1.billing.meter_events.create_async(
            {**event, "identifier": "old", "timestamp": int(time.time()) - 36 * 86_400}
        )
    await sim.advance(v1, clock.id, end + 2 * HOUR)
    invoice = (await v1.invoices.list_async({"subscription": subscription.id})).data[0]
    (line,) = invoice.lines.data
    assert (line.amount, line.quantity, line.period.start, line.period.end) == (
        100,
        200,
        start,
        end,
    )
    assert invoice.status == "paid"
    await shapes_fit(tenant, "billing/meters", "invoices", "prices")


async def test_credit_notes_before_and_after_payment(tenant: Tenant) -> None:
    v1 = tenant.v1
    _clock, customer, _price, subscription = await started(tenant)
    paid = subscription.latest_invoice
    note = await v1.credit_notes.create_async(
        {"invoice": paid, "amount": 1000, "refund_amount": 600, "credit_amount": 400}
    )
    assert (note.post_payment_amount, note.pre_payment_amount) == (1000, 0)
    assert (await v1.customers.retrieve_async(customer.id)).balance == -400
    (entry,) = (await v1.customers.balance_transactions.list_async(customer.id)).data
    assert (entry.type, entry.amount, entry.ending_balance) == ("credit_note", -400, -400)
    with pytest.raises(stripe.InvalidRequestError, match="must equal"):
        await v1.credit_notes.create_async({"invoice": paid, "amount": 100})
    with pytest.raises(stripe.InvalidRequestError, match="from 1 to 3900"):
        await v1.credit_notes.create_async({"invoice": paid, "amount": 5000})

    other = await v1.invoices.create_async(
        {
            "customer": customer.id,
            "currency": "eur",
            "collection_method": "send_invoice",
            "days_until_due": 7,
        }
    )
    await v1.invoice_items.create_async(
        {"customer": customer.id, "invoice": other.id, "amount": 5000, "currency": "eur"}
    )
    other = await v1.invoices.finalize_invoice_async(other.id)
    assert (other.total, other.amount_due, other.starting_balance) == (5000, 4600, -400)
    await v1.credit_notes.create_async({"invoice": other.id, "amount": 600})
    lower = await v1.invoices.retrieve_async(other.id)
    assert (lower.amount_remaining, lower.pre_payment_credit_notes_amount) == (4000, 600)
    await v1.credit_notes.create_async({"invoice": other.id, "amount": 4000})
    assert (await v1.invoices.retrieve_async(other.id)).status == "paid"
    await balance_agrees(v1)
    await shapes_fit(tenant, "credit_notes", f"customers/{customer.id}/balance_transactions")


async def test_tax_ids(tenant: Tenant) -> None:
    v1 = tenant.v1
    customer = await v1.customers.create_async({"name": "GmbH"})
    tax_id = await v1.customers.tax_ids.create_async(
        customer.id, {"type": "eu_vat", "value": "DE123456789"}
    )
    assert tax_id.verification.status == "verified"
    shown = await v1.customers.retrieve_async(customer.id, {"expand": ["tax_ids"]})
    assert [each.id for each in shown.tax_ids.data] == [tax_id.id]
    await shapes_fit(tenant, f"customers/{customer.id}/tax_ids")
    await v1.customers.tax_ids.delete_async(customer.id, tax_id.id)


async def test_a_restricted_key_does_what_it_may(tenant: Tenant) -> None:
    answer = await tenant.sim.control(
        "POST",
        f"/accounts/{tenant.id}/keys",
        {"kind": "restricted", "permissions": ["customers:read", "products:write"]},
    )
    v1 = tenant.sim.client(answer.json()["key"]).v1
    await v1.customers.list_async()
    await v1.products.create_async({"name": "P"})
    for refused in (v1.customers.create_async({}), v1.accounts.retrieve_current_async()):
        with pytest.raises(stripe.PermissionError, match="required permissions"):
            await refused


async def test_a_checkout_by_sepa_debit(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    session = await v1.checkout.sessions.create_async(
        {
            "mode": "payment",
            "payment_method_types": ["card", "sepa_debit"],
            "line_items": [
                {
                    "price_data": {
                        "currency": "eur",
                        "unit_amount": 5000,
                        "product_data": {"name": "Top-up"},
                    },
                }
            ],
            "success_url": "http://127.0.0.1:9/",
        }
    )
    wish = {"iban": "DE89370400440532013000"}
    answer = (await sim.control("POST", f"/checkout/{session.id}/pay", wish)).json()
    assert (answer["status"], answer["payment_status"]) == ("complete", "unpaid")
    intent = answer["session"]["payment_intent"]
    await sim.control("POST", f"/payment_intents/{intent}/settle")
    session = await v1.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == "paid"
    types = [event.type for event in (await v1.events.list_async({})).data]
    assert types[0] == "checkout.session.async_payment_succeeded"


async def test_pages_of_other_origins_cannot_reach_the_control_api(tenant: Tenant) -> None:
    async with httpx.AsyncClient(base_url=tenant.sim.url, timeout=60, trust_env=False) as browser:
        evil = await browser.post("/_sim/reset", headers={"Origin": "https://example.com"})
        own = await browser.get("/_sim/status", headers={"Origin": tenant.sim.url})
    assert (evil.status_code, own.status_code) == (403, 200)


@pytest.mark.parametrize(
    "environment",
    [
        {"STRIPE_SECRET_KEY": "sk_live_0000000000"},
        {"STRIPE_SECRET_KEY": "something"},
        {"SLUICE_STRIPE_SIM_PORT": "many"},
        {"STRIPE_SIM_WEBHOOK_URL": "ftp://x"},
        {"STRIPE_SIM_LISTEN": "everywhere"},
    ],
)
def test_settings_that_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        read_settings(environment)


def test_settings_follow_the_gateway() -> None:
    settings = read_settings({"SLUICE_GATEWAY_URL": "http://127.0.0.1:8101"})
    assert settings.webhook_url == "http://127.0.0.1:8101/api/webhooks/stripe"
    assert settings.host == "127.0.0.1"
