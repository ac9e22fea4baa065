"""Payments, payouts and disputes: what the API says of them, in words; and giving money back."""

import re

import httpx
import pytest

from tests.services.console.conftest import send, text_of
from tests.services.console.money_api import ACME, PAYMENT, payment
from tests.services.console.public_api import PublicApi, problem


def words_of(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


async def test_payments_are_listed(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/payments")
    for shown in ("partially refunded", "120.00 EUR", "20.00 EUR", "payment link", "tenant"):
        assert shown in words_of(text)
    assert f'href="/payments/{PAYMENT}?tenant=acme"' in text
    assert "cursor=further" in text
    assert 'href="/payouts?tenant=acme"' in text, "the tabs beside it"
    api.money.empty = True
    assert "POST /api/v1/payment-intents" in await text_of(member, "/payments")
    assert "No payout in this mode yet" in await text_of(member, "/payouts")
    assert "No dispute in this mode" in await text_of(member, "/disputes")


async def test_a_payment_tells_everything_about_itself(member: httpx.AsyncClient):
    text = await text_of(member, f"/payments/{PAYMENT}")
    for shown in (
        "Paid, and a part given back.",
        "pi_sim_1",
        "plink_sim_1",
        "acct_sim_9",
        "sent to payer@acme.example",
        "expired or canceled card",
        "empty: all that is left, 100.00 EUR",
    ):
        assert shown in words_of(text)
    assert 'href="https://pay.stripe.com/receipts/1"' in text
    assert "<img src=x" not in text


@pytest.mark.parametrize(
    ("changes", "shown", "hidden"),
    [
        (
            {"status": "REQUIRES_ACTION", "confirmation_url": "https://pay.stripe.com/confirm/1"},
            ("requires action", 'href="https://pay.stripe.com/confirm/1"', "wants the payer"),
            ("Give back</summary>",),
        ),
        (
            {"status": "FAILED", "failure_code": "card_declined"},
            ("Stripe says: card declined.", "the last attempt was declined"),
            ("Give back</summary>",),
        ),
        (
            {"status": "COMPLETED", "receipt_url": "javascript:alert(1)", "disputed": True},
            ("Give back</summary>", "disputed", "1234-5678"),
            ("javascript:",),
        ),
        ({"status": "UNKNOWN"}, ("looked up before anything is tried again",), ()),
        ({"status": "SOMETHING_NEW"}, ("something_new",), ()),
    ],
)
async def test_each_state_is_told_in_words(
    member: httpx.AsyncClient,
    api: PublicApi,
    changes: dict[str, object],
    shown: tuple[str, ...],
    hidden: tuple[str, ...],
):
    api.money.payment = payment(**changes)
    text = await text_of(member, f"/payments/{PAYMENT}")
    assert [each for each in shown if each.replace("_", " ") not in text.replace("_", " ")] == []
    assert [each for each in hidden if each in text] == []


async def test_a_part_is_given_back(member: httpx.AsyncClient, api: PublicApi):
    form = {"amount": " 12.50 ", "reason": "duplicate", "once": "0192-ab"}
    answer = await send(member, f"/payments/{PAYMENT}/refund", dict(form))
    assert answer.status_code == 303
    goal = f"/payments/{PAYMENT}?tenant=acme&done=refund_asked"
    assert answer.headers["location"] == goal
    body = {
        "payment": PAYMENT,
        "amount": {"amount_minor": 1_250, "currency": "EUR"},
        "reason": "duplicate",
    }
    assert api.money.last() == ("POST", "/api/v1/refunds", body)
    assert api.money.told[-1][3]["idempotency-key"] == "0192-ab"
    await send(member, f"/payments/{PAYMENT}/refund")
    assert api.money.last()[2] == {"payment": PAYMENT}


@pytest.mark.parametrize("amount", ["abc", "1.234", "-1", "0", "NaN", "1e99", "Infinity"])
async def test_an_amount_that_is_none_is_refused(
    member: httpx.AsyncClient, api: PublicApi, amount: str
):
    answer = await send(member, f"/payments/{PAYMENT}/refund", {"amount": amount})
    assert answer.status_code == 422
    assert "must be written in EUR" in answer.text
    assert api.money.told == []


async def test_a_refusal_is_shown_on_the_payment_s_page(member: httpx.AsyncClient, api: PublicApi):
    api.refusing["/api/v1/refunds"] = problem(409, "All of it was given back already.")
    answer = await send(member, f"/payments/{PAYMENT}/refund")
    assert answer.status_code == 409
    assert "All of it was given back already." in answer.text
    assert "Facts" in answer.text


async def test_an_operator_sees_all_and_acts_for_the_owner(
    operator: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(operator, "/payments")
    assert "Of all tenants" in text
    assert ">Acme<" in text
    assert api.calls_of("/api/v1/payments")[-1].get("x-tenant-id") is None
    await send(operator, f"/payments/{PAYMENT}/refund")
    assert api.money.told[-1][3]["x-tenant-id"] == ACME


async def test_payouts_show_what_failed(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/payouts")
    for shown in (
        "The bank account has been closed.",
        "90.00 EUR",
        "1 of these did not reach the bank",
        "2026-03-03",
        "po_sim_1",
    ):
        assert shown in words_of(text)
    assert text.count('<tr class="failed">') == 1
    await text_of(member, "/payouts?status=failed")
    assert api.money.last()[1] == "/api/v1/payouts?limit=50&status=failed"
    await text_of(member, "/payouts?status=other", 422)


async def test_disputes_say_until_when(member: httpx.AsyncClient):
    text = await text_of(member, "/disputes")
    for shown in ("needs response", "product not received", "2099-01-01", "120.00 EUR"):
        assert shown in words_of(text)
    assert f'href="/payments/{PAYMENT}?tenant=acme"' in text


@pytest.mark.parametrize("path", ["/payments/nobody's", "/payments/pay_unknown", "/payments/a%2fb"])
async def test_what_is_not_there_is_a_page(member: httpx.AsyncClient, path: str):
    assert "<h1>Not found" in await text_of(member, path, 404)


async def test_a_form_of_another_site_is_refused(member: httpx.AsyncClient, api: PublicApi):
    for path in (f"/payments/{PAYMENT}/refund", "/webhooks/replays", "/webhooks/whe_1/assign"):
        answer = await member.post(path, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403
    assert api.money.told == []
