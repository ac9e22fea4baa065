"""The page of the Stripe account: connected by keys or at Stripe, shown with its health."""

import re

import httpx
import pytest

from tests.services.console.conftest import send, text_of
from tests.services.console.public_api import PublicApi
from tests.services.console.settings_bodies import (
    NOT_CONNECTED,
    WEBHOOK_URL,
    health,
)


async def test_the_stripe_page_shows_how_it_is_connected(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/stripe")
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    for part in (
        "Connected to Stripe: acct_sim_9",
        "key valid",
        "webhook registered",
        "ends in 9002 , version 2",
        "ends in 9001 , version 1",
        "Revoke it now.",
        "Whoever holds that key can charge.",
        "Last webhook received 2026-03-01 12:30 UTC",
        "last webhook received 2026-03-01 12:30 UTC",
        "charges enabled",
        "payouts not enabled",
        "Stripe wants to know more",
        "Stripe asks for individual.id number",
        "The account is not paid out.",
    ):
        assert part in shown


async def test_the_badges_renew_themselves_until_a_webhook_has_come(
    member: httpx.AsyncClient, api: PublicApi
):
    api.settings.health = health(last_webhook_at=None)
    text = await text_of(member, "/settings/stripe")
    assert 'data-live="/settings/stripe?tenant=acme&amp;part=badges"' in text
    assert "live.js" in text
    assert "data-settled" not in text
    part = await text_of(member, "/settings/stripe?part=badges")
    assert "<html" not in part
    assert '<span class="badge waiting">no webhook received yet' in part
    api.settings.health = health()
    part = await text_of(member, "/settings/stripe?part=badges")
    assert '<span class="badge good">last webhook received' in part
    assert "data-settled" in part


async def test_keys_are_sent_on_and_never_shown_again(member: httpx.AsyncClient, api: PublicApi):
    form = {
        "secret_key": " sk_test_crown_jewel ",
        "publishable_key": "pk_test_1",
        "webhook_secret": "whsec_jewel",
        "overlap": "3600",
        "confirm_account_change": "yes",
        "once": "0192f0c1-0000",
    }
    kept = await send(member, "/settings/stripe/keys", dict(form))
    assert kept.status_code == 200
    assert WEBHOOK_URL in kept.text
    assert "jewel" not in kept.text
    assert kept.headers["cache-control"] == "no-store"
    assert api.settings.last() == (
        "POST",
        "/api/v1/billing/config",
        {
            "stripe_secret_key": "sk_test_crown_jewel",
            "stripe_publishable_key": "pk_test_1",
            "webhook_secret": "whsec_jewel",
            "overlap_seconds": 3600,
            "confirm_account_change": True,
        },
    )
    await send(member, "/settings/stripe/keys", {"publishable_key": "pk_test_2"})
    assert api.settings.last()[2] == {"stripe_publishable_key": "pk_test_2"}


async def test_a_key_that_does_not_work_is_told_and_not_repeated(
    member: httpx.AsyncClient, api: PublicApi
):
    api.settings.config, api.settings.health = None, NOT_CONNECTED
    assert "Enter keys instead" in await text_of(member, "/settings/stripe")
    answer = await send(member, "/settings/stripe/keys", {"secret_key": "pk_test_oops"})
    assert answer.status_code == 400
    assert "Give the secret key." in answer.text
    assert "pk_test_oops" not in answer.text


async def test_a_connection_is_switched_off_and_on(member: httpx.AsyncClient, api: PublicApi):
    await send(member, "/settings/stripe/switch")
    assert api.settings.last() == ("PATCH", "/api/v1/billing/config", {"is_active": False})
    api.settings.health = health(is_active=False)
    assert "switched off" in await text_of(member, "/settings/stripe")
    await send(member, "/settings/stripe/switch", {"active": "yes"})
    assert api.settings.last() == ("PATCH", "/api/v1/billing/config", {"is_active": True})


async def test_the_owner_is_led_to_stripe_and_back(member: httpx.AsyncClient, api: PublicApi):
    api.settings.config, api.settings.health = None, NOT_CONNECTED
    assert "Connect with Stripe" in await text_of(member, "/settings/stripe")
    answer = await send(member, "/settings/stripe/connect", {"kind": "oauth"})
    assert answer.status_code == 200
    url = "https://connect.stripe.com/oauth/authorize?state=x"
    assert f'<meta http-equiv="refresh" content="0;url={url}">' in answer.text
    assert f'href="{url}"' in answer.text
    assert api.settings.last() == (
        "POST",
        "/api/v1/connect/start",
        {
            "kind": "oauth",
            "account_type": "standard",
            "return_to": "/settings/stripe?tenant=acme",
            "confirm_account_change": False,
        },
    )
    api.settings.stripe_url = "javascript:alert(1)"
    refused = await send(member, "/settings/stripe/connect", {"kind": "oauth"})
    assert refused.status_code == 502
    assert "javascript:" not in refused.text


@pytest.mark.parametrize(
    ("code", "sentence", "role"),
    [
        ("connected", "The account is connected.", "status"),
        ("connect_denied", "did not agree", "alert"),
        ("stripe_account_taken", "connected to another tenant", "alert"),
        ("<b>you won", None, None),
    ],
)
async def test_whoever_comes_back_from_stripe_reads_how_it_went(
    member: httpx.AsyncClient, code: str, sentence: str | None, role: str | None
):
    answer = await member.get("/settings/stripe", params={"connect": code})
    assert "you won" not in answer.text
    if sentence is None:
        assert "notice calm" not in answer.text
        assert 'role="alert"' not in answer.text
    else:
        assert sentence in answer.text
        assert f'role="{role}">' in answer.text


async def test_an_account_is_disconnected(member: httpx.AsyncClient, api: PublicApi):
    answer = await send(member, "/settings/stripe/disconnect", {"release": "yes"})
    assert answer.headers["location"].endswith("done=stripe_disconnected")
    body = {"release_account": True}
    assert api.settings.last() == ("POST", "/api/v1/connect/disconnect", body)
    api.settings.health = health(status="REVOKED", connected=False)
    text = await text_of(member, "/settings/stripe")
    assert "Disconnected from Stripe" in text
    assert "Another account than acct_sim_9" in text
