"""The sandbox and Stripe's own test mode answer alike: the same tests, run against both.

Only calls that Stripe answers too stand here: nothing of the control API, no clicks on pages. The
second run needs `STRIPE_TEST_KEY`, a secret key of an account in test mode that is nobody's
business: objects stay there. How, and what differs: docs/how-to/run-against-stripe-test-mode.md.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
import stripe

from .conftest import VERSION, Sim, new_tenant, transport

STRIPE = "stripe_test_mode"
TEST_KEYS = ("sk_test_", "rk_test_")
HAPPENS_WITHIN_SECONDS = 60.0
"""Stripe does some things a while after it has answered; the sandbox does them at once."""

Account = Any


@pytest.fixture(params=["sandbox", STRIPE])
async def account(request: pytest.FixtureRequest) -> Account:
    """An account's v1 API: one of its own in the sandbox, or the one of the key."""
    if request.param == STRIPE:
        key = os.environ.get("STRIPE_TEST_KEY", "")
        if not key:
            pytest.skip("STRIPE_TEST_KEY is not set: name a key of Stripe's test mode in it")
        assert key.startswith(TEST_KEYS), "STRIPE_TEST_KEY must be a key of test mode"
        client = stripe.StripeClient(
            key, http_client=transport(), stripe_version=VERSION, max_network_retries=3
        )
        return client.v1
    sim: Sim = request.getfixturevalue("shared_sim")
    return (await new_tenant(sim)).v1


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` finds, as soon as it finds anything."""
    deadline = time.monotonic() + HAPPENS_WITHIN_SECONDS
    while not (found := await look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.2)
    return found


async def paid(account: Account, method: str = "pm_card_visa", **more: Any) -> Any:
    """A payment intent of 20.00 that is confirmed at once."""
    wish = {
        "amount": 2_000,
        "currency": "eur",
        "confirm": True,
        "payment_method": method,
        "payment_method_types": ["card"],
        **more,
    }
    return await account.payment_intents.create_async(wish)


async def priced(account: Account, **more: Any) -> Any:
    """A price of 10.00 for a product of its own."""
    wish = {"currency": "eur", "unit_amount": 1_000, "product_data": {"name": "Same"}, **more}
    return await account.prices.create_async(wish)


async def test_the_key_s_own_account(account: Account) -> None:
    own = await account.accounts.retrieve_current_async()
    assert own.id.startswith("acct_")
    assert own.object == "account"
    assert own.country


async def test_a_customer_s_life(account: Account) -> None:
    made = await account.customers.create_async(
        {"name": "Ada", "email": "ada@example.com", "metadata": {"a": "1", "b": "2"}}
    )
    changed = await account.customers.update_async(
        made.id, {"name": "", "metadata": {"a": "", "c": "3"}}
    )
    assert changed.name is None
    assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
    assert (await account.customers.delete_async(made.id)).deleted is True
    assert (await account.customers.retrieve_async(made.id)).deleted is True


async def test_an_idempotency_key_is_good_once(account: Account) -> None:
    key = {"idempotency_key": uuid4().hex}
    first = await account.customers.create_async({"name": "Once"}, key)
    again = await account.customers.create_async({"name": "Once"}, key)
    assert again.id == first.id
    with pytest.raises(stripe.IdempotencyError):
        await account.customers.create_async({"name": "Twice"}, key)


@pytest.mark.parametrize(
    ("call", "status", "code", "param"),
    [
        (lambda v1: v1.customers.create_async({"planet": "x"}), 400, "parameter_unknown", "planet"),
        (lambda v1: v1.customers.retrieve_async("cus_absent"), 404, "resource_missing", "id"),
        (lambda v1: v1.prices.create_async({"currency": "eur"}), 400, None, None),
        (
            lambda v1: v1.payment_intents.create_async({"currency": "eur"}),
            400,
            "parameter_missing",
            "amount",
        ),
        (
            lambda v1: v1.payment_intents.create_async({"amount": 1, "currency": "eur"}),
            400,
            "amount_too_small",
            "amount",
        ),
        (lambda v1: v1.refunds.create_async({"charge": "ch_absent"}), None, None, None),
    ],
)
async def test_refusals_say_what_is_wrong(
    account: Account, call: Any, status: int | None, code: str | None, param: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await call(account)
    assert refused.value.http_status in ((status,) if status else (400, 404))
    if code is not None:
        assert (refused.value.code, refused.value.param) == (code, param)


async def test_a_payment_and_its_balance_transaction(account: Account) -> None:
    intent = await paid(
        account, metadata={"command_id": "c1"}, expand=["latest_charge.balance_transaction"]
    )
    assert (intent.status, intent.amount_received) == ("succeeded", 2_000)
    assert intent.metadata.to_dict() == {"command_id": "c1"}
    charge = intent.latest_charge
    assert (charge.paid, charge.captured, charge.payment_intent) == (True, True, intent.id)
    assert charge.receipt_url
    movement = charge.balance_transaction
    assert (movement.type, movement.source) == ("charge", charge.id)
    assert movement.net == movement.amount - movement.fee
    assert movement.fee == sum(detail.amount for detail in movement.fee_details)


@pytest.mark.parametrize(
    ("method", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None),
    ],
)
async def test_a_decline(
    account: Account, method: str, code: str, decline_code: str | None
) -> None:
    mark = uuid4().hex
    with pytest.raises(stripe.CardError) as declined:
        await paid(account, method, metadata={"mark": mark})
    assert (declined.value.http_status, declined.value.code) == (402, code)
    error = declined.value.json_body["error"]
    assert decline_code is None or error["decline_code"] == decline_code
    left = await account.payment_intents.retrieve_async(error["payment_intent"]["id"])
    assert (left.status, left.metadata["mark"]) == ("requires_payment_method", mark)
    assert left.last_payment_error.code == code


async def test_a_bank_that_wants_the_payer(account: Account) -> None:
    intent = await paid(
        account, "pm_card_threeDSecure2Required", return_url="https://example.com/back"
    )
    assert intent.status == "requires_action"
    assert intent.next_action.type == "redirect_to_url"
    assert intent.next_action.redirect_to_url.return_url == "https://example.com/back"
    canceled = await account.payment_intents.cancel_async(intent.id)
    assert canceled.status == "canceled"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await account.payment_intents.confirm_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def test_an_authorisation_is_captured_in_part(account: Account) -> None:
    intent = await paid(account, capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 2_000)
    taken = await account.payment_intents.capture_async(intent.id, {"amount_to_capture": 1_500})
    assert (taken.status, taken.amount_received) == ("succeeded", 1_500)


async def test_refunds_up_to_what_was_paid(account: Account) -> None:
    intent = await paid(account)
    part = await account.refunds.create_async({"payment_intent": intent.id, "amount": 500})
    assert (part.status, part.amount, part.charge) == ("succeeded", 500, intent.latest_charge)
    with pytest.raises(stripe.InvalidRequestError):
        await account.refunds.create_async({"payment_intent": intent.id, "amount": 1_501})
    rest = await account.refunds.create_async({"payment_intent": intent.id})
    assert rest.amount == 1_500
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await account.refunds.create_async({"payment_intent": intent.id})
    assert refused.value.code == "charge_already_refunded"
    charge = await account.charges.retrieve_async(intent.latest_charge)
    assert (charge.refunded, charge.amount_refunded) == (True, 2_000)
    listed = await account.refunds.list_async({"payment_intent": intent.id})
    assert [each.id for each in listed.data] == [rest.id, part.id]


@pytest.mark.parametrize("method", ["pm_card_createDispute"])
async def test_a_dispute_comes_and_is_won(account: Account, method: str) -> None:
    intent = await paid(account, method)

    async def opened() -> Any:
        return (await account.disputes.list_async({"payment_intent": intent.id})).data

    (dispute,) = await eventually(opened)
    assert (dispute.status, dispute.amount) == ("needs_response", 2_000)
    evidence = {"uncategorized_text": "winning_evidence"}
    await account.disputes.update_async(dispute.id, {"evidence": evidence, "submit": True})

    async def decided() -> Any:
        found = await account.disputes.retrieve_async(dispute.id)
        return found if found.status in ("won", "lost") else None

    assert (await eventually(decided)).status == "won"


async def test_a_saved_card_pays_without_the_payer(account: Account) -> None:
    customer = await account.customers.create_async({})
    saved = await account.setup_intents.create_async(
        {
            "customer": customer.id,
            "payment_method": "pm_card_visa",
            "payment_method_types": ["card"],
            "confirm": True,
        }
    )
    assert saved.status == "succeeded"
    intent = await paid(account, saved.payment_method, customer=customer.id, off_session=True)
    assert intent.status == "succeeded"


async def test_prices_and_products(account: Account) -> None:
    key = f"same-{uuid4().hex}"
    price = await priced(account, recurring={"interval": "month"}, lookup_key=key)
    (found,) = (await account.prices.list_async({"lookup_keys": [key]})).data
    assert (found.id, found.type, found.recurring.interval) == (price.id, "recurring", "month")
    off = await account.products.update_async(price.product, {"active": False})
    assert off.active is False


async def test_a_subscription_renews_under_a_clock(account: Account) -> None:
    begin = int(time.time())
    clock = await account.test_helpers.test_clocks.create_async({"frozen_time": begin})
    customer = await account.customers.create_async(
        {
            "test_clock": clock.id,
            "payment_method": "pm_card_visa",
            "invoice_settings": {"default_payment_method": "pm_card_visa"},
        }
    )
    price = await priced(account, recurring={"interval": "month"})
    subscription = await account.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": price.id}]}
    )
    assert subscription.status == "active"
    (item,) = subscription["items"].data
    goal = item.current_period_end + 2 * 3600
    await account.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": goal})

    async def ready() -> Any:
        found = await account.test_helpers.test_clocks.retrieve_async(clock.id)
        return found if found.status == "ready" else None

    assert (await eventually(ready)).frozen_time == goal
    invoices = (await account.invoices.list_async({"subscription": subscription.id})).data
    assert [(each.billing_reason, each.status, each.total) for each in invoices] == [
        ("subscription_cycle", "paid", 1_000),
        ("subscription_create", "paid", 1_000),
    ]
    renewed = await account.subscriptions.retrieve_async(subscription.id)
    assert renewed["items"].data[0].current_period_start == item.current_period_end
    ended = await account.subscriptions.cancel_async(subscription.id)
    assert ended.status == "canceled"
    await account.test_helpers.test_clocks.delete_async(clock.id)


async def test_an_upgrade_is_prorated_at_once(account: Account) -> None:
    customer = await account.customers.create_async(
        {
            "payment_method": "pm_card_visa",
            "invoice_settings": {"default_payment_method": "pm_card_visa"},
        }
    )
    small, large = [
        await priced(account, recurring={"interval": "month"}, unit_amount=amount)
        for amount in (1_000, 3_000)
    ]
    subscription = await account.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": small.id}]}
    )
    (item,) = subscription["items"].data
    changed = await account.subscriptions.update_async(
        subscription.id,
        {
            "items": [{"id": item.id, "price": large.id}],
            "proration_behavior": "always_invoice",
            "expand": ["latest_invoice"],
        },
    )
    assert changed.latest_invoice.billing_reason == "subscription_update"
    assert changed.latest_invoice.status == "paid"
    assert 1_990 <= changed.latest_invoice.total <= 2_000
    await account.subscriptions.cancel_async(subscription.id)


async def test_an_invoice_by_hand(account: Account) -> None:
    customer = await account.customers.create_async({"email": "ada@example.com"})
    draft = await account.invoices.create_async(
        {
            "customer": customer.id,
            "currency": "eur",
            "collection_method": "send_invoice",
            "days_until_due": 14,
            "auto_advance": False,
        }
    )
    await account.invoice_items.create_async(
        {"customer": customer.id, "invoice": draft.id, "amount": 700, "currency": "eur"}
    )
    final = await account.invoices.finalize_invoice_async(draft.id)
    assert (final.status, final.total, final.amount_due) == ("open", 700, 700)
    assert final.number
    assert final.hosted_invoice_url
    settled = await account.invoices.pay_async(final.id, {"paid_out_of_band": True})
    assert settled.status == "paid"
    with pytest.raises(stripe.InvalidRequestError):
        await account.invoices.void_invoice_async(final.id)


async def test_a_checkout_session_opens_and_expires(account: Account) -> None:
    price = await priced(account)
    session = await account.checkout.sessions.create_async(
        {
            "mode": "payment",
            "line_items": [{"price": price.id, "quantity": 2}],
            "success_url": "https://example.com/done",
            "metadata": {"command_id": "c2"},
            "payment_intent_data": {"metadata": {"command_id": "c2"}},
        }
    )
    assert (session.status, session.payment_status) == ("open", "unpaid")
    assert session.amount_total == 2_000
    assert session.url
    expired = await account.checkout.sessions.expire_async(session.id)
    assert (expired.status, expired.url) == ("expired", None)
    with pytest.raises(stripe.InvalidRequestError):
        await account.checkout.sessions.expire_async(session.id)


async def test_a_payment_link_is_switched_off(account: Account) -> None:
    price = await priced(account)
    link = await account.payment_links.create_async(
        {"line_items": [{"price": price.id, "quantity": 1}], "metadata": {"command_id": "c3"}}
    )
    assert link.active is True
    assert link.url.startswith("http")
    assert (await account.payment_links.update_async(link.id, {"active": False})).active is False


async def test_events_tell_what_happened(account: Account) -> None:
    since = int(time.time()) - 5
    intent = await paid(account)

    async def heard() -> Any:
        types = ["payment_intent.succeeded", "charge.succeeded"]
        listed = await account.events.list_async(
            {"types": types, "created": {"gte": since}, "limit": 100}
        )
        about = {intent.id, intent.latest_charge}
        found = [each for each in listed.data if each.data.object.id in about]
        return found if len(found) == 2 else None

    for event in await eventually(heard):
        assert (event.api_version is not None, event.livemode) == (True, False)
        assert event.created >= since
        assert (await account.events.retrieve_async(event.id)).type == event.type


async def test_lists_are_paged_both_ways(account: Account) -> None:
    customer = await account.customers.create_async({})
    made = [
        (await account.payment_intents.create_async(wish)).id
        for wish in [{"amount": 2_000, "currency": "eur", "customer": customer.id}] * 3
    ]
    of = {"customer": customer.id, "limit": 2}
    first = await account.payment_intents.list_async(of)
    assert ([each.id for each in first.data], first.has_more) == (made[:0:-1], True)
    rest = await account.payment_intents.list_async({**of, "starting_after": made[1]})
    assert ([each.id for each in rest.data], rest.has_more) == (made[:1], False)
    back = await account.payment_intents.list_async({**of, "ending_before": made[0]})
    assert [each.id for each in back.data] == made[:0:-1]


async def test_a_webhook_endpoint_tells_its_secret_once(account: Account) -> None:
    made = await account.webhook_endpoints.create_async(
        {"url": "https://example.com/hook", "enabled_events": ["payout.failed"]}
    )
    try:
        assert made.secret.startswith("whsec_")
        read = await account.webhook_endpoints.retrieve_async(made.id)
        assert "secret" not in read.to_dict()
        off = await account.webhook_endpoints.update_async(made.id, {"disabled": True})
        assert off.status == "disabled"
    finally:
        assert (await account.webhook_endpoints.delete_async(made.id)).deleted is True


async def test_a_tax_rate_is_added_to_an_invoice(account: Account) -> None:
    rate = await account.tax_rates.create_async(
        {"display_name": "VAT", "percentage": "19", "inclusive": False, "country": "DE"}
    )
    customer = await account.customers.create_async({})
    draft = await account.invoices.create_async(
        {"customer": customer.id, "currency": "eur", "default_tax_rates": [rate.id]}
    )
    await account.invoice_items.create_async(
        {"customer": customer.id, "invoice": draft.id, "amount": 1_000, "currency": "eur"}
    )
    read = await account.invoices.retrieve_async(draft.id)
    assert (read.subtotal, read.total) == (1_000, 1_190)
    assert [tax.amount for tax in read.total_taxes] == [190]
    assert (await account.invoices.delete_async(draft.id)).deleted is True


async def test_the_portal_opens_for_a_customer(account: Account) -> None:
    customer = await account.customers.create_async({"email": "ada@example.com"})
    await account.billing_portal.configurations.create_async(
        {"features": {"invoice_history": {"enabled": True}}}
    )
    session = await account.billing_portal.sessions.create_async(
        {"customer": customer.id, "return_url": "https://example.com/back"}
    )
    assert session.url.startswith("http")
    assert session.customer == customer.id
