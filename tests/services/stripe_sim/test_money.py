"""Disputes, payouts, slow payments, payment links and the portal."""

import httpx
import pytest
import stripe

from .conftest import Tenant
from .shapes import complaints
from .test_changes import started
from .test_life import balance_agrees
from .test_shapes import fetch


async def charged(tenant: Tenant, card: str = "pm_card_visa", amount: int = 10_000) -> str:
    intent = await tenant.v1.payment_intents.create_async(
        {"amount": amount, "currency": "eur", "payment_method": card, "confirm": True}
    )
    return str(intent.latest_charge)


async def shapes_fit(tenant: Tenant, *paths: str) -> None:
    found = []
    for path in paths:
        for obj in (await fetch(tenant, path))["data"]:
            found += complaints(obj)
    for event in (await fetch(tenant, "events?limit=100"))["data"]:
        found += complaints(event["data"]["object"])
    assert sorted(set(found)) == []


@pytest.mark.parametrize(("words", "status"), [("winning_evidence", "won"), ("other", "lost")])
async def test_a_dispute_takes_the_money_until_it_is_won(
    tenant: Tenant, words: str, status: str
) -> None:
    v1 = tenant.v1
    charge = await charged(tenant, "pm_card_createDispute")
    (dispute,) = (await v1.disputes.list_async({"charge": charge})).data
    assert (dispute.status, dispute.reason, dispute.amount) == (
        "needs_response",
        "fraudulent",
        10_000,
    )
    (withdrawn,) = dispute.balance_transactions
    assert (withdrawn.amount, withdrawn.fee, withdrawn.net) == (-10_000, 1500, -11_500)
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        await v1.refunds.create_async({"charge": charge})
    await v1.disputes.update_async(dispute.id, {"evidence": {"uncategorized_text": words}})
    if status == "lost":
        await tenant.sim.control("POST", f"/disputes/{dispute.id}/close", {"won": False})
    dispute = await v1.disputes.retrieve_async(dispute.id)
    assert dispute.status == status
    total = sum(each.net for each in (await v1.balance_transactions.list_async({})).data)
    assert total == (10_000 - 320) - 11_500 + (10_000 if status == "won" else 0)
    types = [event.type for event in (await v1.events.list_async({"limit": 100})).data]
    assert ("charge.dispute.funds_reinstated" in types) is (status == "won")
    await balance_agrees(v1)
    await shapes_fit(tenant, "disputes", "balance_transactions")


async def test_an_automatic_payout_names_what_it_is_made_of(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    for amount in (1000, 2000):
        await charged(tenant, amount=amount)
    with pytest.raises(stripe.InvalidRequestError, match="insufficient funds"):
        await v1.payouts.create_async({"amount": 100, "currency": "eur"})
    await sim.control("POST", f"/accounts/{tenant.id}/release")
    answer = await sim.control("POST", f"/accounts/{tenant.id}/payout", {"currency": "eur"})
    payout = answer.json()
    assert (payout["status"], payout["amount"]) == ("pending", 3000 - 59 - 88)
    made_of = (await v1.balance_transactions.list_async({"payout": payout["id"]})).data
    assert sum(each.net for each in made_of) == 0
    assert sum(each.net for each in made_of if each.type == "charge") == payout["amount"]
    await sim.control("POST", f"/payouts/{payout['id']}/settle")
    paid = await v1.payouts.retrieve_async(payout["id"])
    assert (paid.status, paid.reconciliation_status) == ("paid", "completed")
    types = [event.type for event in (await v1.events.list_async({"limit": 100})).data]
    assert {"payout.created", "payout.paid", "payout.reconciliation_completed"} <= set(types)
    await balance_agrees(v1)
    await shapes_fit(tenant, "payouts")


async def test_a_payout_fails_and_comes_back(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    await charged(tenant, "pm_card_bypassPending")
    payout = await v1.payouts.create_async({"amount": 5000, "currency": "eur"})
    await sim.control("POST", f"/payouts/{payout.id}/settle", {"failure": "account_closed"})
    payout = await v1.payouts.retrieve_async(payout.id)
    assert (payout.status, payout.failure_code) == ("failed", "account_closed")
    balance = await v1.balance.retrieve_async()
    assert {part.currency: part.amount for part in balance.available}["eur"] == 9680
    await shapes_fit(tenant, "payouts")


async def test_what_had_arrived_is_sent_back_by_the_bank(tenant: Tenant) -> None:
    v1, sim = tenant.v1, tenant.sim
    await charged(tenant, "pm_card_bypassPending")
    payout = await v1.payouts.create_async({"amount": 5000, "currency": "eur"})
    on_its_way = await sim.control("POST", f"/payouts/{payout.id}/settle", {"in_transit": True})
    assert on_its_way.json()["status"] == "in_transit"
    for _ in range(2):
        arrived = await sim.control("POST", f"/payouts/{payout.id}/settle")
    assert arrived.status_code == 400, "once only"
    assert (await v1.payouts.retrieve_async(payout.id)).status == "paid"
    await sim.control("POST", f"/payouts/{payout.id}/settle", {"failure": "no_account"})
    payout = await v1.payouts.retrieve_async(payout.id, {"expand": ["failure_balance_transaction"]})
    assert (payout.status, payout.failure_code) == ("failed", "no_account")
    assert payout.failure_balance_transaction.net == 5000
    types = [event.type for event in (await v1.events.list_async({"types": PAYOUT_TYPES})).data]
    assert types == PAYOUT_TYPES[::-1]
    await balance_agrees(v1)
    await shapes_fit(tenant, "payouts", "balance_transactions")


PAYOUT_TYPES = ["payout.created", "payout.updated", "payout.paid", "payout.failed"]


@pytest.mark.parametrize(
    ("card", "at_first", "failure", "at_last"),
    [
        ("pm_card_pendingRefund", "pending", None, "succeeded"),
        ("pm_card_pendingRefund", "pending", "insufficient_funds", "failed"),
        ("pm_card_refundFail", "succeeded", "expired_or_canceled_card", "failed"),
    ],
)
async def test_a_refund_takes_its_time_or_fails_in_the_end(
    tenant: Tenant, card: str, at_first: str, failure: str | None, at_last: str
) -> None:
    v1, sim = tenant.v1, tenant.sim
    charge = await charged(tenant, card)
    refund = await v1.refunds.create_async({"charge": charge, "amount": 4000})
    assert refund.status == at_first
    assert (await v1.charges.retrieve_async(charge)).amount_refunded == 4000
    body = {"failure": failure} if failure else {}
    settled = await sim.control("POST", f"/refunds/{refund.id}/settle", body)
    assert settled.status_code == 200, settled.text
    refund = await v1.refunds.retrieve_async(refund.id)
    assert refund.status == at_last
    back = await v1.charges.retrieve_async(charge)
    assert back.amount_refunded == (0 if failure else 4000)
    types = [event.type for event in (await v1.events.list_async({"limit": 100})).data]
    assert ("refund.failed" in types) is (failure is not None)
    assert "charge.refund.updated" in types
    if failure is not None:
        assert refund.failure_reason == failure
        made = await v1.balance_transactions.list_async({"type": "refund_failure"})
        assert [(each.net, each.source) for each in made.data] == [(4000, refund.id)]
        again = await sim.control("POST", f"/refunds/{refund.id}/settle", body)
        assert again.status_code == 400
        await v1.refunds.create_async({"charge": charge})
    await balance_agrees(v1)
    await shapes_fit(tenant, "refunds", "charges", "balance_transactions")


async def test_evidence_is_kept_before_it_is_submitted(tenant: Tenant) -> None:
    v1 = tenant.v1
    charge = await charged(tenant, "pm_card_createDisputeProductNotReceived")
    (dispute,) = (await v1.disputes.list_async({"charge": charge})).data
    draft = {"evidence": {"shipping_tracking_number": "1Z"}, "submit": False}
    kept = await v1.disputes.update_async(dispute.id, draft)
    assert (kept.status, kept.evidence.shipping_tracking_number) == ("needs_response", "1Z")
    assert (kept.evidence_details.has_evidence, kept.evidence_details.submission_count) == (True, 0)
    sent = await v1.disputes.update_async(dispute.id, {"submit": True})
    assert (sent.status, sent.evidence_details.submission_count) == ("under_review", 1)
    assert sent.reason == "product_not_received"
    await shapes_fit(tenant, "disputes")


@pytest.mark.parametrize("succeeds", [True, False])
async def test_a_sepa_debit_is_processing_for_a_while(tenant: Tenant, succeeds: bool) -> None:
    v1, sim = tenant.v1, tenant.sim
    intent = await v1.payment_intents.create_async(
        {
            "amount": 5000,
            "currency": "eur",
            "payment_method_types": ["sepa_debit"],
            "payment_method_data": {
                "type": "sepa_debit",
                "sepa_debit": {"iban": "DE89370400440532013000"},
                "billing_details": {"name": "A", "email": "a@example.com"},
            },
            "confirm": True,
            "expand": ["latest_charge"],
        }
    )
    assert (intent.status, intent.latest_charge.status) == ("processing", "pending")
    assert (await v1.balance_transactions.list_async({})).data == []
    await sim.control("POST", f"/payment_intents/{intent.id}/settle", {"succeeds": succeeds})
    intent = await v1.payment_intents.retrieve_async(intent.id)
    assert intent.status == ("succeeded" if succeeds else "requires_payment_method")
    await balance_agrees(v1)
    await shapes_fit(tenant, "payment_intents", "charges", "balance_transactions")


async def test_a_payment_link_opens_a_session_for_everyone(tenant: Tenant) -> None:
    v1 = tenant.v1
    link = await v1.payment_links.create_async(
        {
            "line_items": [
                {
                    "price_data": {
                        "currency": "eur",
                        "unit_amount": 2500,
                        "product_data": {"name": "Ticket"},
                    },
                    "quantity": 1,
                }
            ],
            "metadata": {"command_id": "c9"},
            "payment_intent_data": {"metadata": {"tenant_id": "t1"}},
            "after_completion": {"type": "redirect", "redirect": {"url": "http://127.0.0.1:9/x"}},
            "restrictions": {"completed_sessions": {"limit": 1}},
        }
    )
    async with httpx.AsyncClient(timeout=60, trust_env=False, base_url=tenant.sim.url) as browser:
        first = (await browser.get(link.url)).headers["location"]
        done = await browser.post(first, data={"card_number": "4242 4242 4242 4242"})
        assert done.headers["location"] == "http://127.0.0.1:9/x"
        used_up = await browser.get(link.url)
        assert used_up.status_code == 410
    (session,) = (await v1.checkout.sessions.list_async({"payment_link": link.id})).data
    assert session.metadata.to_dict() == {"command_id": "c9"}
    assert session.payment_status == "paid"
    intent = await v1.payment_intents.retrieve_async(session.payment_intent)
    assert intent.metadata.to_dict() == {"tenant_id": "t1"}, "a link's own stay on the session"
    assert (await v1.payment_links.retrieve_async(link.id)).active is False
    await shapes_fit(tenant, "payment_links", "checkout/sessions")


async def test_the_portal(tenant: Tenant) -> None:
    v1 = tenant.v1
    _clock, customer, _price, subscription = await started(tenant)
    session = await v1.billing_portal.sessions.create_async(
        {"customer": customer.id, "return_url": "http://127.0.0.1:9/back"}
    )
    async with httpx.AsyncClient(timeout=60, trust_env=False, follow_redirects=True) as browser:
        page = (await browser.get(session.url)).text
        assert "Pro" in page
        assert "visa …4242" in page
        assert "http://127.0.0.1:9/back" in page
        form = {"action": "cancel", "subscription": subscription.id}
        assert "Keep the subscription" in (await browser.post(session.url, data=form)).text
        ending = await v1.subscriptions.retrieve_async(subscription.id)
        assert ending.cancel_at_period_end is True
        await browser.post(session.url, data={**form, "action": "keep"})
        card = {"action": "card", "card_number": "5555555555554444"}
        assert "mastercard …4444" in (await browser.post(session.url, data=card)).text
        bad = await browser.post(
            session.url, data={"action": "card", "card_number": "4000000000000002"}
        )
        assert bad.status_code == 402
        pdf = await browser.get(
            (await v1.invoices.retrieve_async(subscription.latest_invoice)).invoice_pdf
        )
        assert pdf.content.startswith(b"%PDF-1.4")
    assert (await v1.subscriptions.retrieve_async(subscription.id)).cancel_at_period_end is False
    await shapes_fit(tenant, "billing_portal/configurations")


async def test_an_open_invoice_is_paid_on_its_page(tenant: Tenant) -> None:
    v1 = tenant.v1
    customer = await v1.customers.create_async({"email": "x@example.com"})
    invoice = await v1.invoices.create_async(
        {
            "customer": customer.id,
            "currency": "eur",
            "collection_method": "send_invoice",
            "days_until_due": 14,
        }
    )
    await v1.invoice_items.create_async(
        {"customer": customer.id, "invoice": invoice.id, "amount": 7000, "currency": "eur"}
    )
    invoice = await v1.invoices.finalize_invoice_async(invoice.id)
    assert (invoice.status, invoice.due_date) == ("open", invoice.created + 14 * 86_400)
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        assert "To be paid" in (await browser.get(invoice.hosted_invoice_url)).text
        paid = await browser.post(
            invoice.hosted_invoice_url, data={"card_number": "4242424242424242"}
        )
        assert "Paid" in paid.text
    assert (await v1.invoices.retrieve_async(invoice.id)).status == "paid"
    other = await v1.invoices.create_async({"customer": customer.id, "currency": "eur"})
    await v1.invoice_items.create_async(
        {"customer": customer.id, "invoice": other.id, "amount": 900, "currency": "eur"}
    )
    outside = await v1.invoices.pay_async(other.id, {"paid_out_of_band": True})
    assert (outside.status, outside.amount_paid) == ("paid", 0)
    third = await v1.invoices.create_async({"customer": customer.id, "currency": "eur"})
    await v1.invoice_items.create_async(
        {"customer": customer.id, "invoice": third.id, "amount": 900, "currency": "eur"}
    )
    await v1.invoices.finalize_invoice_async(third.id)
    assert (await v1.invoices.void_invoice_async(third.id)).status == "void"
    await balance_agrees(v1)
