"""Signing in and out: the API's session, the browser's cookie, and no other site's forms."""

import httpx
import pytest

from services.console.view import same_site_path
from tests.services.console.conftest import ORIGIN, sign_in
from tests.services.console.public_api import MEMBER, OPERATOR, PASSWORD, PublicApi, problem


async def test_who_is_not_signed_in_is_sent_to_sign_in_and_back(browser: httpx.AsyncClient):
    answer = await browser.get("/invoices?tenant=acme")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Finvoices%3Ftenant%3Dacme"
    form = await browser.get(answer.headers["location"])
    assert 'value="/invoices?tenant=acme"' in form.text
    done = await sign_in(browser, OPERATOR, "/invoices?tenant=acme")
    assert done.status_code == 303
    assert done.headers["location"] == "/invoices?tenant=acme"
    assert "HttpOnly" in done.headers["set-cookie"]
    assert (await browser.get("/login")).status_code == 303


async def test_the_first_page_is_the_list_of_tenants(browser: httpx.AsyncClient):
    assert (await browser.get("/")).headers["location"] == "/tenants"
    assert (await browser.get("/tenants")).headers["location"] == "/login"


async def test_a_wrong_password_is_told_in_words(browser: httpx.AsyncClient):
    form = {"email": OPERATOR, "password": "wrong"}
    answer = await browser.post("/login", data=form, headers={"Origin": ORIGIN})
    assert answer.status_code == 401
    assert "E-mail or password is wrong." in answer.text
    assert f'value="{OPERATOR}"' in answer.text
    assert "wrong&#34;" not in answer.text
    assert 'value="wrong"' not in answer.text


@pytest.mark.parametrize("form", [{}, {"email": OPERATOR}, {"password": PASSWORD}])
async def test_an_incomplete_form_is_told_in_words(
    browser: httpx.AsyncClient, form: dict[str, str]
):
    answer = await browser.post("/login", data=form, headers={"Origin": ORIGIN})
    assert answer.status_code == 422
    assert "Enter your e-mail address and your password." in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{ORIGIN}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {},
    ],
)
async def test_a_form_of_another_site_is_refused(
    browser: httpx.AsyncClient, api: PublicApi, headers: dict[str, str]
):
    form = {"email": OPERATOR, "password": PASSWORD}
    for path in ("/login", "/logout"):
        answer = await browser.post(path, data=form, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text
    assert api.calls_of("/api/v1/session") == []


async def test_signing_out_ends_the_session(operator: httpx.AsyncClient, api: PublicApi):
    assert (await operator.get("/tenants")).status_code == 200
    assert "Sign out?" in (await operator.get("/logout")).text
    answer = await operator.post("/logout", headers={"Origin": ORIGIN})
    assert answer.headers["location"] == "/login"
    assert ("DELETE", "/api/v1/session") in [(method, path) for method, path, _ in api.seen]
    assert (await operator.get("/tenants")).status_code == 303


async def test_only_the_session_s_cookie_reaches_the_api(
    operator: httpx.AsyncClient, api: PublicApi
):
    operator.cookies.set("other", "secret")
    await operator.get("/tenants")
    sent = api.calls_of("/api/v1/session/assertion")[-1]
    assert sent["cookie"] == "sluice_session=op"
    assert sent["origin"] == ORIGIN
    assert "cookie" not in api.calls_of("/api/v1/tenants")[-1]


async def test_one_person_s_session_is_never_another_s(operator: httpx.AsyncClient):
    assert (await operator.get("/tenants")).status_code == 200
    operator.cookies.clear()
    assert (await operator.get("/tenants")).status_code == 303
    operator.cookies.set("sluice_session", "stranger")
    assert (await operator.get("/tenants")).status_code == 303
    await sign_in(operator, MEMBER)
    assert "Globex" not in (await operator.get("/tenants")).text


async def test_an_ended_session_leads_to_sign_in(browser: httpx.AsyncClient):
    browser.cookies.set("sluice_session", "ended")
    answer = await browser.get("/ledger")
    assert answer.headers["location"] == "/login?next=%2Fledger"


async def test_an_api_that_is_away_is_told_in_words(operator: httpx.AsyncClient, api: PublicApi):
    api.failing["/api/v1/session/assertion"] = problem(503, "Tenants is away. Try again shortly.")
    answer = await operator.get("/tenants")
    assert answer.status_code == 503
    assert "Tenants is away." in answer.text
    api.failing["/api/v1/session"] = problem(429, "Too many failed sign-ins. Wait.")
    refused = await sign_in(operator, OPERATOR)
    assert refused.status_code == 429
    assert "Too many failed sign-ins. Wait." in refused.text


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\tevil",
        "/ok\r\nSet-Cookie: a=b",
        "tenants",
        "/login?next=/login",
        "/" + "a" * 3_000,
    ],
)
def test_only_paths_of_this_site_are_gone_on_to(text: str | None):
    assert same_site_path(text) == "/tenants"


def test_a_path_of_this_site_is_gone_on_to():
    assert same_site_path("/invoices/inv_1?tenant=acme") == "/invoices/inv_1?tenant=acme"


async def test_the_identity_provider_is_offered_where_one_is_configured(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    assert "oidc" not in (await browser.get("/login")).text
    app = browser._transport.app  # type: ignore[attr-defined]
    monkeypatch.setattr(app.state, "provider_name", "Acme & Sons")
    shown = (await browser.get("/login?next=/usage%3Ftenant%3Dacme")).text
    start = "/api/v1/session/oidc/start?return_to=%2Fusage%3Ftenant%3Dacme"
    assert f'href="{start}"' in shown
    assert "Sign in with Acme &amp; Sons" in shown


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ("sign_in_expired", "took too long"),
        ("email_unverified", "has not verified your e-mail address"),
        ("<script>alert(1)</script>", "This sign-in did not work."),
    ],
)
async def test_what_a_sign_in_elsewhere_came_to_is_told_in_words(
    browser: httpx.AsyncClient, problem: str, sentence: str
):
    shown = (await browser.get("/login", params={"problem": problem})).text
    assert sentence in shown
    assert "<script>alert" not in shown
