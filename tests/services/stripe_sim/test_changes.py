"""A running subscription changes: price, quantity, interval, pause, coupons, taxes."""

from typing import Any

import pytest
import stripe

from .conftest import Tenant
from .test_life import balance_agrees, on_clock, pro_price

HOUR = 3600


async def started(tenant: Tenant, **more: Any) -> tuple[Any, Any, Any, Any]:
    """Return (clock, customer, price, subscription) of a paid monthly 49.00 EUR."""
    v1 = tenant.v1
    clock, customer = await on_clock(v1, 1_772_366_400)  # 2026-03-01 12:00 UTC, a month of 31 days
    await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    (method,) = (await v1.customers.payment_methods.list_async(customer.id)).data
    await v1.customers.update_async(
        customer.id, {"invoice_settings": {"default_payment_method": method.id}}
    )
    price = await pro_price(v1)
    subscription = await v1.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": price.id}], **more}
    )
    return clock, customer, price, subscription


def period(subscription: Any) -> tuple[int, int]:
    item = subscription["items"].data[0]
    return item.current_period_start, item.current_period_end


async def half_way(tenant: Tenant, clock: Any, subscription: Any) -> int:
    start, end = period(subscription)
    middle = (start + end) // 2
    await tenant.sim.advance(tenant.v1, clock.id, middle)
    return middle


async def test_an_upgrade_is_prorated_and_invoiced_at_once(tenant: Tenant) -> None:
    v1 = tenant.v1
    clock, _customer, _price, subscription = await started(tenant)
    await half_way(tenant, clock, subscription)
    bigger = await pro_price(v1, unit_amount=9900)
    change = {
        "items": [{"id": subscription["items"].data[0].id, "price": bigger.id}],
        "proration_behavior": "always_invoice",
    }
    preview = await v1.invoices.create_preview_async(
        {"subscription": subscription.id, "subscription_details": change}
    )
    updated = await v1.subscriptions.update_async(
        subscription.id, {**change, "expand": ["latest_invoice"]}
    )
    invoice = updated.latest_invoice
    assert [line.amount for line in invoice.lines.data] == [-2450, 4950]
    assert all(line.parent.invoice_item_details.proration for line in invoice.lines.data)
    assert (invoice.billing_reason, invoice.status, invoice.total) == (
        "subscription_update",
        "paid",
        2500,
    )
    assert [line.amount for line in preview.lines.data] == [-2450, 4950]
    assert (preview.total, preview.status) == (2500, "draft")
    assert period(updated) == period(subscription)
    assert updated["items"].data[0].id == subscription["items"].data[0].id
    assert updated["items"].data[0].price.id == bigger.id
    await balance_agrees(v1)


async def test_a_downgrade_waits_for_the_next_invoice(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, customer, _price, subscription = await started(tenant)
    await half_way(tenant, clock, subscription)
    smaller = await pro_price(v1, unit_amount=900)
    await v1.subscriptions.update_async(
        subscription.id,
        {"items": [{"id": subscription["items"].data[0].id, "price": smaller.id}]},
    )
    waiting = await v1.invoice_items.list_async({"customer": customer.id, "pending": True})
    assert sorted(item.amount for item in waiting.data) == [-2450, 450]
    next_one = await v1.invoices.create_preview_async({"subscription": subscription.id})
    assert next_one.total == 900 - 2450 + 450
    await sim.advance(v1, clock.id, period(subscription)[1] + 2 * HOUR)
    invoice = (await v1.invoices.list_async({"subscription": subscription.id})).data[0]
    assert (invoice.total, invoice.amount_due, invoice.status) == (-1100, 0, "paid")
    assert invoice.ending_balance == -1100
    customer = await v1.customers.retrieve_async(customer.id)
    assert customer.balance == -1100


async def test_another_interval_begins_a_new_period(tenant: Tenant) -> None:
    v1 = tenant.v1
    clock, _customer, _price, subscription = await started(tenant)
    middle = await half_way(tenant, clock, subscription)
    yearly = await pro_price(v1, unit_amount=49000, recurring={"interval": "year"})
    updated = await v1.subscriptions.update_async(
        subscription.id,
        {
            "items": [{"id": subscription["items"].data[0].id, "price": yearly.id}],
            "expand": ["latest_invoice"],
        },
    )
    assert period(updated)[0] == middle
    assert updated.billing_cycle_anchor == middle
    assert updated.latest_invoice.total == 49000 - 2450


async def test_a_failed_upgrade_changes_nothing_where_that_was_asked(tenant: Tenant) -> None:
    v1 = tenant.v1
    clock, customer, price, subscription = await started(tenant)
    await half_way(tenant, clock, subscription)
    bad = await v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": customer.id}
    )
    await v1.subscriptions.update_async(subscription.id, {"default_payment_method": bad.id})
    bigger = await pro_price(v1, unit_amount=9900)
    with pytest.raises(stripe.CardError):
        await v1.subscriptions.update_async(
            subscription.id,
            {
                "items": [{"id": subscription["items"].data[0].id, "price": bigger.id}],
                "proration_behavior": "always_invoice",
                "payment_behavior": "error_if_incomplete",
            },
        )
    same = await v1.subscriptions.retrieve_async(subscription.id)
    assert same["items"].data[0].price.id == price.id
    assert len((await v1.invoices.list_async({"subscription": subscription.id})).data) == 1


async def test_cancel_at_period_end_and_back(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, _price, subscription = await started(tenant)
    ending = await v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    assert ending.canceled_at is not None
    staying = await v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": False})
    assert staying.canceled_at is None
    await v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    await sim.advance(v1, clock.id, period(subscription)[1])
    ended = await v1.subscriptions.retrieve_async(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", period(subscription)[1])
    assert len((await v1.invoices.list_async({"subscription": subscription.id})).data) == 1
    with pytest.raises(stripe.InvalidRequestError, match="has been canceled"):
        await v1.subscriptions.update_async(subscription.id, {"metadata": {"a": "b"}})


async def test_canceling_now_with_credit(tenant: Tenant) -> None:
    v1 = tenant.v1
    clock, customer, _price, subscription = await started(tenant)
    await half_way(tenant, clock, subscription)
    ended = await v1.subscriptions.cancel_async(
        subscription.id, {"prorate": True, "invoice_now": True}
    )
    assert ended.status == "canceled"
    assert (await v1.customers.retrieve_async(customer.id)).balance == -2450


async def test_pause_and_resume(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, _price, subscription = await started(tenant)
    paused = await v1.subscriptions.pause_async(subscription.id)
    assert paused.status == "paused"
    await sim.advance(v1, clock.id, period(subscription)[1] + 10 * 86_400)
    assert len((await v1.invoices.list_async({"subscription": subscription.id})).data) == 1
    resumed = await v1.subscriptions.resume_async(subscription.id)
    assert resumed.status == "active"
    assert period(resumed)[0] == period(subscription)[1] + 10 * 86_400
    assert len((await v1.invoices.list_async({"subscription": subscription.id})).data) == 2


async def test_collection_paused_leaves_drafts(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, _price, subscription = await started(tenant)
    await v1.subscriptions.update_async(
        subscription.id, {"pause_collection": {"behavior": "keep_as_draft"}}
    )
    await sim.advance(v1, clock.id, period(subscription)[1] + 2 * HOUR)
    (draft,) = (await v1.invoices.list_async({"status": "draft"})).data
    assert draft.auto_advance is False
    await v1.subscriptions.update_async(subscription.id, {"pause_collection": ""})
    again = await v1.subscriptions.retrieve_async(subscription.id)
    assert (again.status, again.pause_collection) == ("active", None)


async def test_a_trial_ends_in_the_first_charge(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, _price, subscription = await started(tenant, trial_period_days=14)
    assert subscription.status == "trialing"
    first = await v1.invoices.retrieve_async(subscription.latest_invoice)
    assert (first.total, first.status) == (0, "paid")
    assert subscription.trial_end == period(subscription)[1]
    await sim.advance(v1, clock.id, subscription.trial_end + 2 * HOUR)
    active = await v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert (active.status, active.latest_invoice.total) == ("active", 4900)
    assert active.latest_invoice.billing_reason == "subscription_cycle"


async def test_taxes_are_added_or_included(tenant: Tenant) -> None:
    v1 = tenant.v1
    on_top = await v1.tax_rates.create_async(
        {"display_name": "VAT", "percentage": "19", "inclusive": False, "country": "DE"}
    )
    inside = await v1.tax_rates.create_async(
        {"display_name": "VAT", "percentage": "19", "inclusive": True}
    )
    _clock, customer, price, subscription = await started(
        tenant, default_tax_rates=[on_top.id], expand=["latest_invoice"]
    )
    invoice = subscription.latest_invoice
    assert (invoice.subtotal, invoice.total, invoice.total_excluding_tax) == (4900, 5831, 4900)
    assert [(tax.amount, tax.taxable_amount) for tax in invoice.total_taxes] == [(931, 4900)]
    other = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"price": price.id, "tax_rates": [inside.id]}],
            "expand": ["latest_invoice"],
        }
    )
    invoice = other.latest_invoice
    assert (invoice.total, invoice.total_excluding_tax) == (4900, 4118)
    assert invoice.total_taxes[0].amount == 782
    await v1.customers.update_async(customer.id, {"tax_exempt": "reverse"})
    free = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_tax_rates": [on_top.id],
            "expand": ["latest_invoice"],
        }
    )
    assert free.latest_invoice.total == 4900
    assert free.latest_invoice.total_taxes[0].taxability_reason == "reverse_charge"


async def test_coupons(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    once = await v1.coupons.create_async({"percent_off": "25", "duration": "once"})
    code = await v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": once.id}, "code": "SPRING", "max_redemptions": 1}
    )
    clock, customer, price, subscription = await started(
        tenant, discounts=[{"promotion_code": code.id}], expand=["latest_invoice"]
    )
    invoice = subscription.latest_invoice
    assert (invoice.subtotal, invoice.total) == (4900, 3675)
    assert invoice.total_discount_amounts[0].amount == 1225
    with pytest.raises(stripe.InvalidRequestError, match="expired"):
        await v1.subscriptions.create_async(
            {
                "customer": customer.id,
                "items": [{"price": price.id}],
                "discounts": [{"promotion_code": code.id}],
            }
        )
    await sim.advance(v1, clock.id, period(subscription)[1] + 2 * HOUR)
    renewed = (await v1.invoices.list_async({"subscription": subscription.id})).data[0]
    assert renewed.total == 4900
    fixed = await v1.coupons.create_async(
        {"amount_off": 1000, "currency": "eur", "duration": "forever"}
    )
    other = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"price": price.id, "quantity": 2}],
            "discounts": [{"coupon": fixed.id}],
            "expand": ["latest_invoice"],
        }
    )
    assert other.latest_invoice.total == 8800


@pytest.mark.parametrize(
    ("mode", "quantity", "expected"),
    [("graduated", 5, 500), ("graduated", 15, 1250), ("volume", 5, 500), ("volume", 15, 750)],
)
async def test_tiered_prices(tenant: Tenant, mode: str, quantity: int, expected: int) -> None:
    v1 = tenant.v1
    product = await v1.products.create_async({"name": "Seats"})
    price = await v1.prices.create_async(
        {
            "product": product.id,
            "currency": "eur",
            "billing_scheme": "tiered",
            "tiers_mode": mode,
            "tiers": [
                {"up_to": 10, "unit_amount": 100},
                {"up_to": "inf", "unit_amount_decimal": "50"},
            ],
            "recurring": {"interval": "month"},
            "expand": ["tiers"],
        }
    )
    assert [tier.up_to for tier in price.tiers] == [10, None]
    customer = await v1.customers.create_async({"payment_method": "pm_card_visa"})
    (method,) = (await v1.customers.payment_methods.list_async(customer.id)).data
    subscription = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "default_payment_method": method.id,
            "items": [{"price": price.id, "quantity": quantity}],
            "expand": ["latest_invoice"],
        }
    )
    assert subscription.latest_invoice.total == expected
