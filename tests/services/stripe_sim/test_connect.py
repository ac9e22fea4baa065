"""A platform and its connected accounts: OAuth, account links, direct charges, parting."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stripe

from .conftest import Receiver, Sim, new_tenant
from .shapes import complaints
from .test_life import balance_agrees, on_clock

CLIENT_ID = "ca_platform_sandbox"
BACK = "http://127.0.0.1:9/callback"


async def authorized(sim: Sim, decision: str = "connect") -> dict[str, str]:
    """Click through the OAuth page and return what the callback is called with."""
    url = sim.client().oauth.authorize_url(
        {"client_id": CLIENT_ID, "scope": "read_write", "redirect_uri": BACK, "state": "s1"}
    )
    split = urlsplit(url)
    async with httpx.AsyncClient(base_url=sim.url, timeout=60, trust_env=False) as browser:
        page = await browser.get(f"{split.path}?{split.query}")
        assert "Connect my Stripe account" in page.text
        answer = await browser.post(
            f"{split.path}?{split.query}", data={"decision": decision, "account": "new"}
        )
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith(BACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


async def token(sim: Sim, code: str) -> Any:
    answer = await sim.client().raw_request_async(
        "post", "/oauth/token", base="connect", grant_type="authorization_code", code=code
    )
    return answer.data


async def connected(sim: Sim) -> str:
    answer = await authorized(sim)
    return str((await token(sim, answer["code"]))["stripe_user_id"])


async def test_oauth_from_the_page_to_a_direct_charge_and_back(
    hooked: tuple[Sim, Receiver],
) -> None:
    sim, receiver = hooked
    answer = await authorized(sim)
    assert answer["state"] == "s1"
    granted = await token(sim, answer["code"])
    account = granted["stripe_user_id"]
    assert granted["scope"] == "read_write"
    with pytest.raises(stripe.oauth_error.InvalidGrantError):
        await token(sim, answer["code"])

    v1, on = sim.client().v1, {"stripe_account": account}
    customer = await v1.customers.create_async({"name": "Buyer"}, on)
    with pytest.raises(stripe.InvalidRequestError):
        await v1.customers.retrieve_async(customer.id)
    intent = await v1.payment_intents.create_async(
        {
            "amount": 10_000,
            "currency": "eur",
            "customer": customer.id,
            "payment_method": "pm_card_visa",
            "confirm": True,
            "application_fee_amount": 500,
            "expand": ["latest_charge.balance_transaction"],
        },
        on,
    )
    booked = intent.latest_charge.balance_transaction
    assert (booked.fee, booked.net) == (320 + 500, 9180)
    assert {detail.type: detail.amount for detail in booked.fee_details} == {
        "stripe_fee": 320,
        "application_fee": 500,
    }
    (fee,) = (await v1.application_fees.list_async()).data
    assert (fee.account, fee.amount) == (account, 500)
    await v1.refunds.create_async(
        {"payment_intent": intent.id, "amount": 5000, "refund_application_fee": True}, on
    )
    fee = await v1.application_fees.retrieve_async(fee.id)
    assert fee.amount_refunded == 250
    more = await v1.application_fees.refunds.create_async(fee.id, {"amount": 50})
    given = (await v1.application_fees.refunds.list_async(fee.id)).data
    assert [each.amount for each in given] == [50, 250]
    assert complaints(more.to_dict()) == []
    assert (await v1.application_fees.retrieve_async(fee.id)).amount_refunded == 300
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        await v1.application_fees.refunds.create_async(fee.id, {"amount": 201})
    await balance_agrees(v1)
    own = await v1.balance.retrieve_async({}, on)
    assert sum(part.amount for part in (*own.available, *own.pending)) == 9180 - 5000 + 250

    await receiver.until(lambda: "refund.created" in receiver.types())
    by_type = {event["type"]: event for event in receiver.events}
    assert by_type["payment_intent.succeeded"]["account"] == account
    assert "account" not in by_type["application_fee.created"]

    gone = await sim.client().raw_request_async(
        "post", "/oauth/deauthorize", base="connect", client_id=CLIENT_ID, stripe_user_id=account
    )
    assert gone.data["stripe_user_id"] == account
    with pytest.raises(stripe.PermissionError):
        await v1.customers.list_async({}, on)
    await receiver.until(lambda: "account.application.deauthorized" in receiver.types())
    last = next(e for e in receiver.events if e["type"] == "account.application.deauthorized")
    assert last["account"] == account
    assert last["data"]["object"]["object"] == "application"


async def test_a_refused_authorization(shared_sim: Sim) -> None:
    answer = await authorized(shared_sim, "deny")
    assert (answer["error"], answer["state"]) == ("access_denied", "s1")
    with pytest.raises(stripe.oauth_error.InvalidGrantError):
        await token(shared_sim, "ac_made_up")
    async with httpx.AsyncClient(base_url=shared_sim.url, timeout=60, trust_env=False) as browser:
        for wrong in ("client_id=ca_other", f"client_id={CLIENT_ID}&response_type=code"):
            page = await browser.get(f"/oauth/authorize?{wrong}")
            assert page.status_code == 400


async def test_disconnecting_from_the_other_side(hooked: tuple[Sim, Receiver]) -> None:
    sim, receiver = hooked
    account = await connected(sim)
    assert (await sim.control("POST", f"/accounts/{account}/disconnect")).status_code == 200
    await receiver.until(lambda: "account.application.deauthorized" in receiver.types())
    with pytest.raises(stripe.PermissionError):
        await sim.client().v1.accounts.retrieve_async(account)
    again = await sim.control("POST", f"/accounts/{account}/disconnect")
    assert again.status_code == 400


async def test_account_links(hooked: tuple[Sim, Receiver]) -> None:
    sim, receiver = hooked
    v1 = sim.client().v1
    account = await v1.accounts.create_async({"type": "standard", "email": "new@example.com"})
    assert (account.charges_enabled, account.details_submitted) == (False, False)
    assert account.requirements.currently_due
    with pytest.raises(stripe.InvalidRequestError, match="cannot currently make charges"):
        await v1.payment_intents.create_async(
            {"amount": 1000, "currency": "eur"}, {"stripe_account": account.id}
        )
    link = await v1.account_links.create_async(
        {
            "account": account.id,
            "type": "account_onboarding",
            "refresh_url": "http://127.0.0.1:9/again",
            "return_url": "http://127.0.0.1:9/done",
        }
    )
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        assert "Complete the onboarding" in (await browser.get(link.url)).text
        done = await browser.post(link.url, data={"complete": "complete"})
        assert done.headers["location"] == "http://127.0.0.1:9/done"
        again = await browser.get(link.url)
        assert again.headers["location"] == "http://127.0.0.1:9/again"
    account = await v1.accounts.retrieve_async(account.id)
    assert (account.charges_enabled, account.payouts_enabled) == (True, True)
    await receiver.until(lambda: "account.updated" in receiver.types())
    assert account.id in [each.id for each in (await v1.accounts.list_async()).data]


async def test_keys_are_added_and_revoked(shared_sim: Sim) -> None:
    tenant = await new_tenant(shared_sim)
    answer = await shared_sim.control("POST", f"/accounts/{tenant.id}/keys", {"kind": "secret"})
    fresh = shared_sim.client(answer.json()["key"]).v1
    assert (await fresh.accounts.retrieve_current_async()).id == tenant.id
    await shared_sim.control("POST", "/keys/revoke", {"key": tenant.key})
    with pytest.raises(stripe.AuthenticationError, match="Expired API Key"):
        await tenant.v1.customers.list_async()
    await fresh.customers.list_async()
    unknown = await shared_sim.control("POST", "/keys/revoke", {"key": "sk_test_unknown"})
    assert unknown.status_code == 400
    listed = (await shared_sim.control("GET", "/accounts")).json()["items"]
    keys = next(item["keys"] for item in listed if item["id"] == tenant.id)
    publishable = next(each["key"] for each in keys if each["kind"] == "publishable")
    with pytest.raises(stripe.AuthenticationError, match="publishable"):
        await shared_sim.client(publishable).v1.customers.list_async()


async def test_a_rolled_secret_signs_beside_the_new_one(hooked: tuple[Sim, Receiver]) -> None:
    sim, receiver = hooked
    rolled = await sim.control(
        "POST", "/webhook_endpoints/we_platform_self/roll", {"expires_in_seconds": 3600}
    )
    await sim.client().v1.customers.create_async({})
    await receiver.until(lambda: len(receiver.events) == 1)
    receiver.secret = rolled.json()["secret"]
    await sim.client().v1.customers.create_async({})
    await receiver.until(lambda: len(receiver.events) == 2)
    assert all(header.count("v1=") == 2 for header in receiver.headers)
    assert receiver.refused == []


async def test_subscriptions_on_a_connected_account_with_a_percentage(
    hooked: tuple[Sim, Receiver],
) -> None:
    sim, _receiver = hooked
    account = await connected(sim)
    v1, on = sim.client().v1, {"stripe_account": account}
    link = await v1.payment_links.create_async(
        {
            "line_items": [
                {
                    "price_data": {
                        "currency": "eur",
                        "unit_amount": 2000,
                        "recurring": {"interval": "month"},
                        "product_data": {"name": "Club"},
                    },
                    "quantity": 1,
                }
            ],
            "application_fee_percent": "10",
        },
        on,
    )
    async with httpx.AsyncClient(timeout=60, trust_env=False, base_url=sim.url) as browser:
        opened = await browser.get(link.url)
        page = opened.headers["location"]
        done = await browser.post(page, data={"card_number": "4242424242424242"})
        assert "Thank you" in done.text
    (fee,) = (await v1.application_fees.list_async()).data
    assert fee.amount == 200


async def test_clocks_of_two_accounts_do_not_meet(shared_sim: Sim) -> None:
    one, two = await new_tenant(shared_sim), await new_tenant(shared_sim)
    clock, _customer = await on_clock(one.v1)
    with pytest.raises(stripe.InvalidRequestError):
        await two.v1.customers.create_async({"test_clock": clock.id})
