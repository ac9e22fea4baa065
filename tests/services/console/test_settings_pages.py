"""Every page and form behind Settings: who sees it, who may send it, what a refusal looks like."""

import re

import httpx
import pytest

from services.console.rights import PERMISSIONS, ROLES
from services.tenants.roles import RANK, SCOPES
from tests.services.console.conftest import send, text_of
from tests.services.console.public_api import PublicApi, problem
from tests.services.console.settings_bodies import (
    INVITATION,
    KEY,
    OTHER_USER,
    SESSION,
    TEAM,
)

PAGES = [
    "/settings",
    "/settings/api-keys",
    "/settings/members",
    "/settings/teams",
    f"/settings/teams/{TEAM}",
    "/settings/stripe",
    "/settings/configuration",
    "/settings/configuration/billing",
    "/settings/configuration/custom.shop",
    "/audit",
    "/audit/verification",
]
FORMS = [
    ("/settings/api-keys", {"name": "x", "scopes": "usage:write", "mode": "test"}),
    (f"/settings/api-keys/{KEY}/rotate", {"overlap": "0"}),
    (f"/settings/api-keys/{KEY}/revoke", {}),
    ("/settings/members/invite", {"email": "a@b.example"}),
    (f"/settings/members/invitations/{INVITATION}/withdraw", {}),
    (f"/settings/members/{OTHER_USER}/change", {"role": "admin"}),
    (f"/settings/members/{OTHER_USER}/remove", {}),
    ("/settings/teams", {"name": "x"}),
    (f"/settings/teams/{TEAM}/rename", {"name": "x"}),
    (f"/settings/teams/{TEAM}/remove", {}),
    (f"/settings/teams/{TEAM}/add", {"user": OTHER_USER}),
    (f"/settings/teams/{TEAM}/members/{OTHER_USER}/remove", {}),
    ("/settings/stripe/keys", {"secret_key": "sk_test_x"}),
    ("/settings/stripe/switch", {}),
    ("/settings/stripe/connect", {}),
    ("/settings/stripe/disconnect", {}),
    ("/settings/configuration/billing", {"values": "{}", "version": "3"}),
    ("/settings/configuration/live", {}),
    ("/settings/configuration/record", {"name": "Acme"}),
    (f"/settings/account/sessions/{SESSION}/end", {}),
    ("/settings/account/sessions/end-others", {}),
    ("/settings/account/password", {"old": "old", "new": "x", "again": "x"}),
]
API_OF = {
    "/settings/api-keys": "/api/v1/api-keys",
    f"/settings/api-keys/{KEY}/rotate": f"/api/v1/api-keys/{KEY}/rotate",
    f"/settings/api-keys/{KEY}/revoke": f"/api/v1/api-keys/{KEY}",
    "/settings/members/invite": "/api/v1/invitations",
    f"/settings/members/invitations/{INVITATION}/withdraw": f"/api/v1/invitations/{INVITATION}",
    f"/settings/members/{OTHER_USER}/change": f"/api/v1/members/{OTHER_USER}",
    f"/settings/members/{OTHER_USER}/remove": f"/api/v1/members/{OTHER_USER}",
    "/settings/teams": "/api/v1/teams",
    f"/settings/teams/{TEAM}/rename": f"/api/v1/teams/{TEAM}",
    f"/settings/teams/{TEAM}/remove": f"/api/v1/teams/{TEAM}",
    f"/settings/teams/{TEAM}/add": f"/api/v1/teams/{TEAM}/members/{OTHER_USER}",
    f"/settings/teams/{TEAM}/members/{OTHER_USER}/remove": (
        f"/api/v1/teams/{TEAM}/members/{OTHER_USER}"
    ),
    "/settings/stripe/keys": "/api/v1/billing/config",
    "/settings/stripe/switch": "/api/v1/billing/config",
    "/settings/stripe/connect": "/api/v1/connect/start",
    "/settings/stripe/disconnect": "/api/v1/connect/disconnect",
    "/settings/configuration/billing": "/api/v1/tenants/acme/config/billing",
    "/settings/configuration/live": "/api/v1/tenants/acme/live",
    "/settings/configuration/record": "/api/v1/tenants/acme",
    f"/settings/account/sessions/{SESSION}/end": f"/api/v1/sessions/{SESSION}",
    "/settings/account/sessions/end-others": "/api/v1/sessions",
    "/settings/account/password": "/api/v1/session/password",
}
"""The path of the API that each form calls."""


def test_the_words_for_rights_are_those_of_the_api():
    assert dict(PERMISSIONS) == dict(SCOPES)
    assert set(ROLES) == set(RANK)


async def test_settings_lead_to_every_page_behind_them(member: httpx.AsyncClient):
    text = await text_of(member, "/settings")
    links = set(re.findall(r'href="((?:/settings/|/audit)[^"?]*)\?tenant=acme"', text))
    assert {"/settings/api-keys", "/settings/members", "/settings/teams", "/audit"} <= links
    for link in links:
        await text_of(member, link)


@pytest.mark.parametrize("path", PAGES[1:])
async def test_an_operator_chooses_a_tenant_first(operator: httpx.AsyncClient, path: str):
    text = await text_of(operator, path)
    assert f'href="{path}?tenant=globex"' in text
    await text_of(operator, f"{path}?tenant=acme")


@pytest.mark.parametrize("path", PAGES)
async def test_pages_hold_no_inline_code_and_nothing_of_the_api_as_markup(
    member: httpx.AsyncClient, path: str
):
    answer = await member.get(path)
    assert "<img" not in answer.text
    assert " style=" not in answer.text
    assert not re.search(r"<script(?! src=)", answer.text)
    assert not re.search(r"<[^>]*\son[a-z]+=", answer.text)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("path", "form"), FORMS)
async def test_forms_of_other_sites_change_nothing(
    member: httpx.AsyncClient, api: PublicApi, path: str, form: dict[str, str]
):
    answer = await member.post(path, data=form, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert api.settings.told == []


@pytest.mark.parametrize(("path", "form"), FORMS)
async def test_a_refusal_shows_the_page_again_with_the_api_s_sentence(
    member: httpx.AsyncClient, api: PublicApi, path: str, form: dict[str, str]
):
    api.refusing[API_OF[path]] = problem(409, "Not while <b>this</b> holds.")
    answer = await send(member, path, dict(form))
    assert answer.status_code == 409
    assert "Not while &lt;b&gt;this&lt;/b&gt; holds." in answer.text
    assert 'role="alert"' in answer.text
    assert "<form" in answer.text


@pytest.mark.parametrize(("path", "form"), FORMS)
async def test_whoever_is_not_signed_in_any_more_is_sent_to_sign_in(
    browser: httpx.AsyncClient, api: PublicApi, path: str, form: dict[str, str]
):
    answer = await send(browser, path, dict(form))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    assert api.settings.told == []


async def test_a_role_that_may_not_reads_the_api_s_sentence(
    member: httpx.AsyncClient, api: PublicApi
):
    api.failing["/api/v1/api-keys"] = problem(403, "This needs the permission members:manage.")
    text = await text_of(member, "/settings/api-keys", 403)
    assert "This needs the permission members:manage." in text
    assert "/settings/members" in text, "the other settings stay in reach"


async def test_what_an_address_says_was_done_is_one_of_our_sentences(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/api-keys?done=%3Cb%3Eyou+won%3C/b%3E")
    assert "you won" not in text
    assert 'role="status"' not in text


@pytest.mark.parametrize(
    "path",
    [
        "/settings/nothing",
        "/settings/teams/..%2f..",
        "/settings/teams/a%20b",
        f"/settings/api-keys/{KEY}/rotate",
    ],
)
async def test_addresses_that_are_no_page_say_so(member: httpx.AsyncClient, path: str):
    answer = await member.get(path)
    assert answer.status_code in (404, 405)
    assert "<h1>" in answer.text
