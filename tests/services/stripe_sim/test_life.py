"""A customer's life with Stripe, told in order."""

import time
from typing import Any

import httpx
import pytest
import stripe
from stripe import StripeError

from .conftest import Receiver, Sim, Tenant, new_tenant

MONTH_MAX = 31 * 86_400


async def pro_price(v1: Any, **more: Any) -> Any:
    product = await v1.products.create_async({"name": "Pro"})
    return await v1.prices.create_async(
        {
            "product": product.id,
            "unit_amount": 4900,
            "currency": "eur",
            "recurring": {"interval": "month"},
            **more,
        }
    )


async def on_clock(v1: Any, start: int | None = None) -> tuple[Any, Any]:
    clock = await v1.test_helpers.test_clocks.create_async(
        {"frozen_time": start or int(time.time())}
    )
    customer = await v1.customers.create_async(
        {"email": "payer@example.com", "name": "Payer", "test_clock": clock.id}
    )
    return clock, customer


async def subscribed(sim: Sim, v1: Any, card: str = "4242424242424242") -> tuple[Any, Any, Any]:
    clock, customer = await on_clock(v1)
    price = await pro_price(v1)
    session = await v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "customer": customer.id,
            "line_items": [{"price": price.id, "quantity": 1}],
            "success_url": "http://127.0.0.1/done?session={CHECKOUT_SESSION_ID}",
            "client_reference_id": "ref",
            "metadata": {"tenant_id": "t1"},
            "subscription_data": {"metadata": {"plan": "pro"}},
        }
    )
    paid = await sim.pay(session.id, card)
    assert paid["success_url"] == f"http://127.0.0.1/done?session={session.id}"
    session = await v1.checkout.sessions.retrieve_async(session.id)
    assert (session.status, session.payment_status) == ("complete", "paid")
    assert session.metadata.to_dict() == {"tenant_id": "t1"}
    subscription = await v1.subscriptions.retrieve_async(session.subscription)
    return clock, customer, subscription


async def balance_agrees(v1: Any) -> None:
    listed = await v1.balance_transactions.list_async({"limit": 100})
    sums: dict[str, int] = {}
    for transaction in listed.data:
        assert transaction.net == transaction.amount - transaction.fee
        sums[transaction.currency] = sums.get(transaction.currency, 0) + transaction.net
    balance = await v1.balance.retrieve_async()
    shown: dict[str, int] = {}
    for part in (*balance.available, *balance.pending):
        shown[part.currency] = shown.get(part.currency, 0) + part.amount
    assert {name: net for name, net in shown.items() if net} == {
        name: net for name, net in sums.items() if net
    }


async def test_from_checkout_to_a_renewal_with_usage(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, customer, subscription = await subscribed(sim, v1)
    assert subscription.status == "active"
    assert subscription.metadata.to_dict() == {"plan": "pro"}
    item = subscription["items"].data[0]
    start, end = item.current_period_start, item.current_period_end
    assert 28 * 86_400 <= end - start <= MONTH_MAX
    first = await v1.invoices.retrieve_async(subscription.latest_invoice)
    assert (first.billing_reason, first.status, first.total) == (
        "subscription_create",
        "paid",
        4900,
    )

    await sim.advance(v1, clock.id, end + 300)
    listed = await v1.invoices.list_async({"subscription": subscription.id, "status": "draft"})
    (draft,) = listed.data
    assert draft.billing_reason == "subscription_cycle"
    assert (draft.period_start, draft.period_end) == (start, end)
    assert draft.lines.data[0].period.start == end
    assert draft.automatically_finalizes_at == draft.created + 3600

    await v1.invoices.update_async(draft.id, {"auto_advance": False})
    for _ in range(2):
        await v1.invoice_items.create_async(
            {
                "customer": customer.id,
                "invoice": draft.id,
                "amount": 123,
                "currency": "eur",
                "description": "42 calls",
                "metadata": {"meter": "calls"},
            },
            {"idempotency_key": f"usage-{draft.id}"},
        )
    await sim.advance(v1, clock.id, end + 2 * 3600)
    held = await v1.invoices.retrieve_async(draft.id)
    assert (held.status, held.total, len(held.lines.data)) == ("draft", 5023, 2)

    done = await v1.invoices.finalize_invoice_async(draft.id, {"auto_advance": True})
    assert (done.status, done.amount_paid, done.amount_remaining) == ("paid", 5023, 0)
    assert done.number.endswith("-0002")
    payments = await v1.invoice_payments.list_async({"invoice": done.id})
    intent = await v1.payment_intents.retrieve_async(
        payments.data[0].payment.payment_intent, {"expand": ["latest_charge.balance_transaction"]}
    )
    booked = intent.latest_charge.balance_transaction
    assert (booked.type, booked.amount, booked.fee, booked.net) == ("charge", 5023, 176, 4847)
    back = await v1.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": intent.id}}
    )
    assert [payment.invoice for payment in back.data] == [done.id]

    refund = await v1.refunds.create_async({"payment_intent": intent.id, "amount": 1000})
    assert refund.status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        await v1.refunds.create_async({"payment_intent": intent.id, "amount": 5000})
    await balance_agrees(v1)


async def test_a_draft_nobody_holds_is_finalized_after_an_hour(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, subscription = await subscribed(sim, v1)
    end = subscription["items"].data[0].current_period_end
    await sim.advance(v1, clock.id, end + 3599)
    (draft,) = (await v1.invoices.list_async({"status": "draft"})).data
    await sim.advance(v1, clock.id, end + 3601)
    invoice = await v1.invoices.retrieve_async(draft.id)
    assert (invoice.status, invoice.status_transitions.finalized_at) == ("paid", end + 3600)


async def test_a_renewal_that_fails_is_retried_and_then_ends_the_subscription(
    tenant: Tenant,
) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, subscription = await subscribed(sim, v1, "4000000000000341")
    end = subscription["items"].data[0].current_period_end
    await sim.advance(v1, clock.id, end + 3700)
    subscription = await v1.subscriptions.retrieve_async(
        subscription.id, {"expand": ["latest_invoice"]}
    )
    invoice = subscription.latest_invoice
    assert (subscription.status, invoice.status, invoice.attempt_count) == ("past_due", "open", 1)
    await sim.advance(v1, clock.id, end + 20 * 86_400)
    subscription = await v1.subscriptions.retrieve_async(subscription.id)
    assert subscription.status == "canceled"
    assert subscription.cancellation_details.reason == "payment_failed"
    invoice = await v1.invoices.retrieve_async(invoice.id)
    assert (invoice.attempt_count, invoice.next_payment_attempt) == (4, None)


async def test_a_failed_renewal_is_paid_with_another_card(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, customer, subscription = await subscribed(sim, v1, "4000000000000341")
    end = subscription["items"].data[0].current_period_end
    await sim.advance(v1, clock.id, end + 3700)
    invoice_id = (await v1.subscriptions.retrieve_async(subscription.id)).latest_invoice
    with pytest.raises(stripe.CardError, match="declined"):
        await v1.invoices.pay_async(invoice_id)
    method = await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    paid = await v1.invoices.pay_async(invoice_id, {"payment_method": method.id})
    assert paid.status == "paid"
    assert (await v1.subscriptions.retrieve_async(subscription.id)).status == "active"
    await balance_agrees(v1)


async def test_a_clock_goes_forward_only_and_two_intervals_at_most(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    clock, _customer, subscription = await subscribed(sim, v1)
    now = (await v1.test_helpers.test_clocks.retrieve_async(clock.id)).frozen_time
    for wrong in (now, now - 1, now + 70 * 86_400):
        with pytest.raises(stripe.InvalidRequestError):
            await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": wrong})
    end = subscription["items"].data[0].current_period_end
    moving = await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": end})
    assert moving.status == "advancing"
    with pytest.raises(stripe.InvalidRequestError, match="underway"):
        await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": end + 1})
    for _ in range(2):
        await v1.customers.create_async({"test_clock": clock.id})
    with pytest.raises(stripe.InvalidRequestError, match="at most 3"):
        await v1.customers.create_async({"test_clock": clock.id})


async def test_periods_keep_the_day_of_a_long_month(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    january_31 = 1_769_860_800  # 2026-01-31 12:00 UTC
    clock, customer = await on_clock(v1, january_31)
    method = await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    price = await pro_price(v1)
    subscription = await v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_payment_method": method.id,
        }
    )
    ends = []
    for _ in range(3):
        end = (await v1.subscriptions.retrieve_async(subscription.id))["items"].data[0]
        ends.append(time.strftime("%m-%d", time.gmtime(end.current_period_end)))
        await sim.advance(v1, clock.id, end.current_period_end + 4000)
    assert ends == ["02-28", "03-31", "04-30"]


async def test_no_account_sees_another(shared_sim: Sim) -> None:
    one, two = await new_tenant(shared_sim), await new_tenant(shared_sim)
    customer = await one.v1.customers.create_async({"email": "x@example.com"})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await two.v1.customers.retrieve_async(customer.id)
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    assert (await two.v1.customers.list_async()).data == []
    with pytest.raises(stripe.PermissionError) as forbidden:
        await two.v1.customers.list_async({}, {"stripe_account": one.id})
    assert forbidden.value.http_status == 403
    with pytest.raises(stripe.AuthenticationError):
        await shared_sim.client("sk_test_nobody_knows_this").v1.customers.list_async()
    with pytest.raises(stripe.AuthenticationError):
        await shared_sim.client("sk_live_never").v1.customers.list_async()
    # The same idempotency key in two accounts is two keys.
    for each in (one, two):
        made = await each.v1.customers.create_async({"name": "N"}, {"idempotency_key": "same"})
        assert (await each.v1.customers.retrieve_async(made.id)).name == "N"


async def test_idempotency_replays_and_refuses_other_parameters(tenant: Tenant) -> None:
    v1 = tenant.v1
    first = await v1.customers.create_async({"name": "A"}, {"idempotency_key": "k"})
    again = await v1.customers.create_async({"name": "A"}, {"idempotency_key": "k"})
    assert again.id == first.id
    assert again.last_response.headers["idempotent-replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError) as refused:
        await v1.customers.create_async({"name": "B"}, {"idempotency_key": "k"})
    assert refused.value.http_status == 400
    assert len((await v1.customers.list_async()).data) == 1


async def test_a_500_after_the_effect_is_replayed_but_the_effect_is_there(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    wish = {"kind": "error", "status": 500, "moment": "after", "count": 1, "account": tenant.id}
    assert (await sim.control("POST", "/faults", wish)).status_code == 201
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await v1.customers.create_async({"name": "A"}, {"idempotency_key": "k"})
    assert len((await v1.customers.list_async()).data) == 1


async def test_a_broken_connection_after_the_effect(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    wish = {"kind": "cut", "count": 1, "account": tenant.id}
    assert (await sim.control("POST", "/faults", wish)).status_code == 201
    with pytest.raises(stripe.APIConnectionError):
        await v1.customers.create_async({"name": "A"}, {"idempotency_key": "k"})
    again = await v1.customers.create_async({"name": "A"}, {"idempotency_key": "k"})
    assert [customer.id for customer in (await v1.customers.list_async()).data] == [again.id]


async def test_a_declined_card(tenant: Tenant) -> None:
    v1 = tenant.v1
    with pytest.raises(stripe.CardError) as declined:
        await v1.payment_intents.create_async(
            {
                "amount": 1000,
                "currency": "eur",
                "payment_method": "pm_card_chargeDeclinedInsufficientFunds",
                "confirm": True,
            }
        )
    error = declined.value
    assert (error.http_status, error.code) == (402, "card_declined")
    assert error.error.decline_code == "insufficient_funds"
    intent = await v1.payment_intents.retrieve_async(error.error.payment_intent.id)
    assert intent.status == "requires_payment_method"
    charge = await v1.charges.retrieve_async(intent.latest_charge)
    assert (charge.status, charge.balance_transaction) == ("failed", None)
    paid = await v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert paid.status == "succeeded"
    await balance_agrees(v1)


async def test_a_payment_that_needs_the_payer(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    wish = {
        "amount": 1000,
        "currency": "eur",
        "payment_method": "pm_card_threeDSecure2Required",
        "confirm": True,
    }
    intent = await v1.payment_intents.create_async(wish)
    assert intent.status == "requires_action"
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        url = intent.next_action.redirect_to_url.url
        assert url.startswith(sim.url)
        assert "Complete" in (await browser.get(url)).text
        await browser.post(url, data={"challenge": "complete"})
    assert (await v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"
    with pytest.raises(stripe.CardError) as declined:
        await v1.payment_intents.create_async({**wish, "off_session": True})
    assert declined.value.code == "authentication_required"


async def test_the_checkout_page_in_a_browser_without_scripts(tenant: Tenant) -> None:
    v1 = tenant.v1
    session = await v1.checkout.sessions.create_async(
        {
            "mode": "payment",
            "customer_email": "guest@example.com",
            "line_items": [
                {
                    "price_data": {
                        "currency": "eur",
                        "unit_amount": 1500,
                        "product_data": {"name": "<b>Top-up</b>"},
                    },
                    "quantity": 2,
                }
            ],
            "success_url": "http://127.0.0.1:9/ok",
            "payment_intent_data": {"metadata": {"command_id": "c1"}},
        }
    )
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        page = await browser.get(session.url)
        assert 'name="card_number"' in page.text
        assert 'name="pay"' in page.text
        assert "&lt;b&gt;Top-up" in page.text
        bad = await browser.post(session.url, data={"card_number": "4000000000000002"})
        assert (bad.status_code, "declined" in bad.text) == (402, True)
        challenge = await browser.post(session.url, data={"card_number": "4000002500003155"})
        assert "bank" in challenge.text
        done = await browser.post(session.url, data={"challenge": "complete"})
        assert (done.status_code, done.headers["location"]) == (303, "http://127.0.0.1:9/ok")
    session = await v1.checkout.sessions.retrieve_async(
        session.id, {"expand": ["payment_intent", "line_items"]}
    )
    assert session.payment_intent.amount_received == 3000
    assert session.payment_intent.metadata.to_dict() == {"command_id": "c1"}
    assert session.line_items.data[0].quantity == 2


async def test_paging_and_filters(tenant: Tenant) -> None:
    v1 = tenant.v1
    made = [(await v1.customers.create_async({"name": str(n)})).id for n in range(7)]
    page = await v1.customers.list_async({"limit": 3})
    assert [each.id for each in page.data] == made[:3:-1]
    assert page.has_more
    everything = [each.id async for each in page.auto_paging_iter()]
    assert everything == made[::-1]
    newer = await v1.customers.list_async({"limit": 3, "ending_before": made[0]})
    assert [each.id for each in newer.data] == made[3:0:-1]
    events = await v1.events.list_async({"types": ["customer.created"], "limit": 100})
    assert [event.data.object.id for event in events.data] == made[::-1]
    with pytest.raises(stripe.InvalidRequestError, match="Limit must be"):
        await v1.customers.list_async({"limit": 101})


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/v1/customers", "nonsense=1", "parameter_unknown", "nonsense"),
        ("/v1/customers", "address[planet]=x", "parameter_unknown", "address[planet]"),
        ("/v1/payment_intents", "currency=eur", "parameter_missing", "amount"),
        ("/v1/payment_intents", "amount=x&currency=eur", "parameter_invalid_integer", "amount"),
        ("/v1/payment_intents", "amount=10&currency=eur", "amount_too_small", "amount"),
        ("/v1/subscriptions", "customer=cus_none", "resource_missing", "customer"),
        ("/v1/customers", "a[b=c", None, None),
        ("/v1/customers", "metadata[a]=b&metadata=c", None, None),
        ("/v1/customers", "a[0][0][0][0][0][0][0][0][0]=c", None, None),
        ("/v1/customers", "name=%ff", None, None),
        ("/v1/customers", "expand[]=nothing", "property_cannot_be_expanded", "expand"),
    ],
)
async def test_bad_parameters_are_refused_in_stripes_words(
    tenant: Tenant, path: str, body: str, code: str | None, param: str | None
) -> None:
    async with httpx.AsyncClient(base_url=tenant.sim.url, timeout=60, trust_env=False) as http:
        answer = await http.post(
            path, content=body, headers={"Authorization": f"Bearer {tenant.key}"}
        )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error.get("code"), error.get("param")) == (code, param)
    assert answer.headers["request-id"].startswith("req_")
    assert (await tenant.v1.customers.list_async()).data == []


async def test_nothing_is_left_of_a_refused_call(tenant: Tenant) -> None:
    """A subscription nobody can pay for leaves neither itself nor an event behind."""
    v1 = tenant.v1
    customer = await v1.customers.create_async({})
    price = await pro_price(v1)
    with pytest.raises(StripeError, match="no attached payment source"):
        await v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price.id}]}
        )
    assert (await v1.subscriptions.list_async({"status": "all"})).data == []
    assert (await v1.invoices.list_async()).data == []
    types = {event.type for event in (await v1.events.list_async({"limit": 100})).data}
    assert types == {"customer.created", "product.created", "price.created"}


async def test_the_lifecycle_is_told_by_webhooks(hooked: tuple[Sim, Receiver]) -> None:
    sim, receiver = hooked
    v1 = sim.client().v1
    await subscribed(sim, v1)
    await receiver.until(lambda: "checkout.session.completed" in receiver.types())
    expected = {
        "customer.created",
        "customer.subscription.created",
        "customer.subscription.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice_payment.paid",
        "payment_intent.succeeded",
        "charge.succeeded",
    }
    await receiver.until(lambda: expected <= set(receiver.types()))
    assert receiver.refused == []
    for event in receiver.events:
        assert event["api_version"] == "2026-10-28.endive"
        assert "account" not in event
        assert event["livemode"] is False
