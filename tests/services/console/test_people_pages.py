"""Members, invitations, teams and one's own account."""

import httpx
import pytest

from tests.services.console.conftest import ORIGIN, send, text_of
from tests.services.console.public_api import PublicApi
from tests.services.console.settings_bodies import (
    INVITATION,
    LINK,
    OTHER_USER,
    SESSION,
    TEAM,
)


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
