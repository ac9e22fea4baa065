"""Keys, members, invitations, teams and the audit log: each form becomes the API's call."""

import re
from html import unescape

import httpx
import pytest

from services.console.rights import PERMISSIONS, ROLES
from services.tenants.roles import RANK, SCOPES
from tests.services.console.conftest import ORIGIN
from tests.services.console.public_api import PublicApi, problem
from tests.services.console.settings_api import (
    INVITATION,
    KEY,
    LINK,
    NOT_CONNECTED,
    OTHER_USER,
    SECRET,
    SESSION,
    TEAM,
    WEBHOOK_URL,
    health,
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


async def send(
    client: httpx.AsyncClient, path: str, form: dict[str, object] | None = None
) -> httpx.Response:
    return await client.post(path, data=form or {}, headers={"Origin": ORIGIN})


async def text_of(client: httpx.AsyncClient, path: str, status: int = 200) -> str:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


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


async def test_what_an_address_says_was_done_is_one_of_our_sentences(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/api-keys?done=%3Cb%3Eyou+won%3C/b%3E")
    assert "you won" not in text
    assert 'role="status"' not in text


async def test_members_are_shown_changed_and_removed(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/settings/members")
    assert "owner@acme.example" in text
    assert "new@acme.example" in text
    path = f"/settings/members/{OTHER_USER}"
    form = {"role": "billing_admin", "permissions": ["usage:write"]}
    assert (await send(member, f"{path}/change", form)).status_code == 303
    assert api.settings.last() == ("PATCH", f"/api/v1/members/{OTHER_USER}", form)
    assert (await send(member, f"{path}/remove")).status_code == 303
    assert api.settings.last() == ("DELETE", f"/api/v1/members/{OTHER_USER}", None)


async def test_an_invitation_s_link_is_shown_once(member: httpx.AsyncClient, api: PublicApi):
    form = {"email": " new@acme.example ", "role": "admin", "once": "0192f0c1-0000"}
    made = await send(member, "/settings/members/invite", form)
    assert LINK in made.text
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("POST", "/api/v1/invitations")
    assert body == {"email": "new@acme.example", "role": "admin", "permissions": []}
    assert headers["idempotency-key"] == "0192f0c1-0000"
    assert LINK not in await text_of(member, "/settings/members")
    path = f"/settings/members/invitations/{INVITATION}/withdraw"
    assert (await send(member, path)).headers["location"].endswith("done=invitation_withdrawn")
    assert api.settings.last() == ("DELETE", f"/api/v1/invitations/{INVITATION}", None)


async def test_a_stranger_accepts_an_invitation_and_is_signed_in(
    browser: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(browser, "/invitation?token=good")
    assert 'value="good"' in text
    assert "You are signed in" not in text
    form = {"token": "good", "name": "Ada", "password": "a long password"}
    answer = await send(browser, "/invitation", form)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/tenants"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert api.settings.last() == ("POST", "/api/v1/invitations/accept", form)
    assert (await browser.get("/tenants")).status_code == 200


async def test_whoever_is_signed_in_accepts_without_a_password(
    member: httpx.AsyncClient, api: PublicApi
):
    assert "Accept as owner@acme.example" in await text_of(member, "/invitation?token=good")
    assert (await send(member, "/invitation", {"token": "good"})).status_code == 303
    sent = api.settings.told[-1][3]
    assert sent["origin"] == ORIGIN
    assert sent["cookie"] == "sluice_session=me"


@pytest.mark.parametrize(
    ("form", "status", "sentence"),
    [
        ({"token": "used", "password": "x"}, 404, "This invitation is not valid."),
        ({"token": "good"}, 401, "Sign in to it first."),
    ],
)
async def test_an_invitation_that_cannot_be_accepted_says_why(
    browser: httpx.AsyncClient, form: dict[str, str], status: int, sentence: str
):
    answer = await send(browser, "/invitation", dict(form))
    assert answer.status_code == status
    assert sentence in answer.text
    assert "set-cookie" not in answer.headers


async def test_an_invitation_of_another_site_is_not_accepted(
    browser: httpx.AsyncClient, api: PublicApi
):
    form = {"token": "good", "password": "a long password"}
    answer = await browser.post(
        "/invitation", data=form, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert api.settings.told == []
    assert "holds no invitation" in await text_of(browser, "/invitation")


async def test_teams_are_made_filled_and_removed(member: httpx.AsyncClient, api: PublicApi):
    assert "Night shift" in await text_of(member, "/settings/teams")
    text = await text_of(member, f"/settings/teams/{TEAM}")
    assert f'<option value="{OTHER_USER}">' in text, "who is not in it yet"
    base, target = f"/settings/teams/{TEAM}", f"/api/v1/teams/{TEAM}"
    for path, form, told in [
        ("/settings/teams", {"name": "Day"}, ("POST", "/api/v1/teams", {"name": "Day"})),
        (f"{base}/rename", {"name": "Day"}, ("PATCH", target, {"name": "Day"})),
        (f"{base}/add", {"user": OTHER_USER}, ("PUT", f"{target}/members/{OTHER_USER}", None)),
        (
            f"{base}/members/{OTHER_USER}/remove",
            {},
            ("DELETE", f"{target}/members/{OTHER_USER}", None),
        ),
        (f"{base}/remove", {}, ("DELETE", target, None)),
    ]:
        assert (await send(member, path, dict(form))).status_code == 303
        assert api.settings.last() == told


async def test_the_audit_log_tells_who_what_when_and_from_where(member: httpx.AsyncClient):
    text = await text_of(member, "/audit")
    for shown in (
        "member.changed",
        "<del>member</del> <ins>admin</ins>",
        "203.0.113.9",
        "permission_denied",
        "permission members:manage",
        "2026-03-01 12:30 UTC",
        "cursor=further",
    ):
        assert shown in text


async def test_the_audit_log_is_searched_by_what_the_form_says(
    member: httpx.AsyncClient, api: PublicApi
):
    query = "kind=configuration&action=member.&actor=usr_1&object=usr_2&text=admin"
    text = await text_of(member, f"/audit?{query}&from=2026-02-01&to=2026-02-28")
    asked = httpx.URL(api.settings.last()[1]).params
    assert dict(asked) == {
        "limit": "50",
        "kind": "configuration",
        "action": "member.",
        "actor": "usr_1",
        "object_id": "usr_2",
        "text": "admin",
        "occurred_from": "2026-02-01T00:00:00Z",
        "occurred_to": "2026-03-01T00:00:00Z",
    }
    assert 'value="2026-02-28"' in text
    exports = [unescape(link) for link in re.findall(r'href="(/audit/export[^"]+)"', text)]
    assert len(exports) == 2
    answer = await member.get(exports[0])
    assert answer.text == "seq,action\r\n41,x\r\n"
    assert answer.headers["content-type"].startswith("text/csv")
    assert "audit-log-acme.csv" in answer.headers["content-disposition"]
    sent = dict(httpx.URL(api.settings.last()[1]).params)
    assert sent == {**{k: v for k, v in asked.items() if k != "limit"}, "format": "csv"}
    assert "No entry fits" in await text_of(member, "/audit?text=nothing")


async def test_an_export_that_is_refused_is_a_page(member: httpx.AsyncClient, api: PublicApi):
    api.failing["/api/v1/audit-log/export"] = problem(403, "Not yours to read.")
    assert "Not yours to read." in await text_of(member, "/audit/export?format=jsonl", 403)
    assert "must be a date" in await text_of(member, "/audit?from=yesterday", 422)
    await text_of(member, "/audit/export?format=xml", 422)


async def test_the_chain_is_checked_and_a_break_is_told_loudly(
    member: httpx.AsyncClient, api: PublicApi
):
    assert "Entries 1 to 42 hold" in await text_of(member, "/audit/verification")
    api.settings.chain_broken = True
    assert "broken at entry 17: the hash differs" in await text_of(member, "/audit/verification")


async def test_the_api_is_told_where_the_browser_is(member: httpx.AsyncClient, api: PublicApi):
    await text_of(member, "/audit")
    assert api.settings.told[-1][3]["x-forwarded-for"] == "127.0.0.1"


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


async def test_one_s_own_sessions_are_shown_and_ended(member: httpx.AsyncClient, api: PublicApi):
    text = await text_of(member, "/settings/account")
    assert "this browser" in text
    assert "203.0.113.9" in text
    answer = await send(member, f"/settings/account/sessions/{SESSION}/end")
    assert "That session is ended." in await text_of(member, answer.headers["location"])
    assert api.settings.last() == ("DELETE", f"/api/v1/sessions/{SESSION}", None)
    await send(member, "/settings/account/sessions/end-others")
    assert api.settings.last() == ("DELETE", "/api/v1/sessions", None)


async def test_operators_have_an_account_without_choosing_a_tenant(
    operator: httpx.AsyncClient, api: PublicApi
):
    await text_of(operator, "/settings/account")
    assert "x-tenant-id" not in api.calls_of("/api/v1/sessions")[-1]


async def test_the_password_is_changed_with_the_present_one(
    member: httpx.AsyncClient, api: PublicApi
):
    path = "/settings/account/password"
    unlike = await send(member, path, {"old": "old", "new": "a long one", "again": "another"})
    assert unlike.status_code == 422
    assert "differently" in unlike.text
    assert api.settings.told == []
    wrong = await send(member, path, {"old": "guess", "new": "a long one", "again": "a long one"})
    assert wrong.status_code == 401
    assert "The old password is wrong." in wrong.text
    assert "a long one" not in wrong.text
    right = await send(member, path, {"old": "old", "new": "a long one", "again": "a long one"})
    assert right.headers["location"].endswith("done=password_changed")
    body = {"old_password": "old", "new_password": "a long one"}
    assert api.settings.last() == ("PUT", "/api/v1/session/password", body)


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
        "charges enabled",
        "payouts not enabled",
        "Stripe wants to know more",
        "Stripe asks for individual.id number",
        "The account is not paid out.",
    ):
        assert part in shown


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


async def test_settings_are_edited_as_json_against_the_version_that_was_read(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration/billing")
    assert "&#34;net_terms_days&#34;: 14" in text
    assert "From an invoice&#39;s date on." in text
    assert "Version 2" in text
    form = {"values": '{"net_terms_days": 7, "x": 0.1}', "version": "3"}
    saved = await send(member, "/settings/configuration/billing", dict(form))
    assert saved.headers["location"].endswith("done=configuration_saved")
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("PUT", "/api/v1/tenants/acme/config/billing")
    assert body == {"values": {"net_terms_days": 7, "x": 0.1}}
    assert headers["if-match"] == '"3"'


async def test_a_conflict_keeps_what_was_typed_and_shows_what_holds(member: httpx.AsyncClient):
    form = {"values": '{"net_terms_days": 99}', "version": "2"}
    answer = await send(member, "/settings/configuration/billing", dict(form))
    assert answer.status_code == 412
    assert "Somebody else changed these settings" in answer.text
    assert "{&#34;net_terms_days&#34;: 99}" in answer.text, "what was typed"
    assert 'name="version" value="3"' in answer.text, "saving again is meant"


@pytest.mark.parametrize(
    "text", ["{", "[1]", '"x"', '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' * 1_500, "1" * 5_000]
)
async def test_what_is_no_json_object_is_told(member: httpx.AsyncClient, api: PublicApi, text: str):
    answer = await send(member, "/settings/configuration/billing", {"values": text})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert api.settings.told == []


async def test_settings_of_one_s_own_have_an_address(member: httpx.AsyncClient):
    answer = await member.get("/settings/configuration/custom?name=shop")
    assert answer.headers["location"] == "/settings/configuration/custom.shop?tenant=acme"
    await text_of(member, "/settings/configuration/custom?name=a/b", 404)


async def test_operators_edit_what_only_they_set(operator: httpx.AsyncClient):
    assert "Only the platform" not in await text_of(
        operator, "/settings/configuration/fees?tenant=acme"
    )


async def test_members_read_what_only_operators_set(member: httpx.AsyncClient):
    text = await text_of(member, "/settings/configuration/fees")
    assert "Only the platform" in text
    assert "<textarea" not in text


async def test_the_checklist_says_what_to_do_and_opens_live_mode(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration")
    assert "Choose a plan." in text
    assert 'name="reasons"' not in text, "only operators waive"
    form = {"confirm_free_plan": "yes"}
    answer = await send(member, "/settings/configuration/live", dict(form))
    assert answer.headers["location"].endswith("done=went_live")
    assert api.settings.last() == (
        "POST",
        "/api/v1/tenants/acme/live",
        {"confirm_free_plan": True, "waive": []},
    )
    api.settings.live = True
    assert "Live mode is open since" in await text_of(member, "/settings/configuration")


async def test_the_record_is_changed_against_the_state_that_was_read(
    member: httpx.AsyncClient, api: PublicApi
):
    text = await text_of(member, "/settings/configuration")
    assert 'value="bills@acme.example"' in text
    assert 'name="etag" value="&#34;abc123&#34;"' in text
    form = {"name": "Acme", "tax_region": " DE ", "etag": '"abc123"', "billing_email": ""}
    saved = await send(member, "/settings/configuration/record", dict(form))
    assert saved.headers["location"].endswith("done=record_saved")
    method, path, body, headers = api.settings.told[-1]
    assert (method, path) == ("PUT", "/api/v1/tenants/acme")
    assert body == {
        "name": "Acme",
        "locale": None,
        "currency": None,
        "tax_region": "DE",
        "settings": {"billing_email": None},
    }
    assert headers["if-match"] == '"abc123"'


async def test_an_operator_waives_items_with_reasons(operator: httpx.AsyncClient, api: PublicApi):
    text = await text_of(operator, "/settings/configuration?tenant=acme")
    assert text.count('name="reasons"') == 2
    form = {"items": ["plan_chosen", "tax_region_set"], "reasons": ["", "exempt"]}
    await send(operator, "/settings/configuration/live?tenant=acme", dict(form))
    waived = [{"item": "tax_region_set", "reason": "exempt"}]
    assert api.settings.last()[2] == {"confirm_free_plan": False, "waive": waived}
