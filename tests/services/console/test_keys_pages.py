"""API keys: made, rotated and revoked; a secret is shown once."""

import re

import httpx

from tests.services.console.conftest import send, text_of
from tests.services.console.public_api import PublicApi
from tests.services.console.settings_bodies import (
    KEY,
    SECRET,
)


async def test_keys_are_shown_with_use_and_end(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/api-keys")
    assert "slk_test_abcd" in text
    assert "2026-03-01 12:30 UTC" in text
    assert "being replaced" in text
    assert "leaked" in text
    assert "Shop &lt;img" in text


async def test_a_key_is_made_once_and_its_secret_shown_once(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/api-keys?mode=live")
    once = re.findall(r'name="once" value="([0-9a-f-]{36})"', text)
    assert len(once) == len(set(once)) >= 2, "each form its own"
    form = {
        "name": "Shop",
        "scopes": ["usage:write", "billing:read"],
        "mode": "live",
        "expires": "2027-01-31",
        "once": once[-1],
    }
    made = await send(member, "/settings/api-keys?mode=live", form)
    assert made.status_code == 200
    assert SECRET in made.text
    assert made.headers["cache-control"] == "no-store"
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("POST", "/api/v1/api-keys")
    assert body == {
        "name": "Shop",
        "scopes": ["usage:write", "billing:read"],
        "mode": "live",
        "expires_at": "2027-01-31T23:59:59Z",
    }
    assert headers["idempotency-key"] == once[-1]
    assert headers["x-tenant-id"] == "acme"
    assert SECRET not in await text_of(member, "/settings/api-keys")


async def test_a_day_that_is_none_is_told(member: httpx.AsyncClient, api: PublicApi):
    answer = await send(member, "/settings/api-keys", {"name": "x", "expires": "soon"})
    assert answer.status_code == 422
    assert "must be a date" in answer.text
    assert api.settings.told == []


async def test_a_key_is_rotated_with_an_overlap(member: httpx.AsyncClient, api: PublicApi):
    answer = await send(member, f"/settings/api-keys/{KEY}/rotate", {"overlap": "3600"})
    assert SECRET in answer.text
    assert "stays valid" in answer.text
    assert api.settings.last() == (
        "POST",
        f"/api/v1/api-keys/{KEY}/rotate",
        {"overlap_seconds": 3600},
    )


async def test_a_key_is_revoked_with_a_reason(member: httpx.AsyncClient, api: PublicApi):
    answer = await send(member, f"/settings/api-keys/{KEY}/revoke", {"reason": "it leaked"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/settings/api-keys?tenant=acme&done=key_revoked"
    assert api.settings.last() == ("DELETE", f"/api/v1/api-keys/{KEY}?reason=it+leaked", None)
    assert "The key is revoked." in await text_of(member, answer.headers["location"])
