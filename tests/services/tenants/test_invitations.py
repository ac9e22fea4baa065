"""Invitations: the one way in, used once, by the person they were made for."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.audit import ConfigurationChanged
from libs.ids import public_id
from libs.testing.databases import TestDatabase
from services.tenants import invitations, people, throttle
from services.tenants.roles import SCOPES
from tenants.conftest import OPERATOR_EMAIL, World, checksums
from tenants.persons import FROM_HERE, PASSWORD, add_person, browser, invite, signed_in, token_of

INVITATIONS = "/api/v1/invitations"
NEW_PASSWORD = "quite another morning"
ADA = "ada@acme.example"


async def test_an_invitation_makes_a_user_and_a_member(world: World) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    made = await world.call(
        "POST",
        INVITATIONS,
        json={"email": "Ada@Acme.Example", "role": "billing_admin", "permissions": ["usage:write"]},
        headers={"X-Tenant-ID": "acme"},
    )
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    body = made.json()
    assert (body["email"], body["role"], body["permissions"]) == (
        ADA,
        "billing_admin",
        ["usage:write"],
    )
    listed = await world.call("GET", INVITATIONS, headers={"X-Tenant-ID": "acme"})
    waiting = {item["email"]: item for item in listed.json()["items"]}
    assert "url" not in waiting[ADA]
    async with browser(world, ADA) as ada:
        answer = await ada.accept(body["url"], name="Ada", password=NEW_PASSWORD)
        assert answer.status_code == 201
        assert answer.json()["user"] | {"id": ""} == {
            "id": "",
            "email": ADA,
            "name": "Ada",
            "operator": False,
        }
        assert [home["slug"] for home in answer.json()["tenants"]] == ["acme"]
        asserted = (await ada.assert_for()).json()
        assert "usage:write" in asserted["permissions"]
        assert asserted["tenant"]["role"] == "billing_admin"
        assert (await ada.sign_in(NEW_PASSWORD)).status_code == 201
    listed = await world.call("GET", INVITATIONS, headers={"X-Tenant-ID": "acme"})
    assert ADA not in {item["email"] for item in listed.json()["items"]}
    actions = [
        event.data.action
        for event in world.log.events(ConfigurationChanged)
        if event.tenant_id == UUID(acme["id"]) and event.data.object_id == body["id"]
    ]
    assert actions == ["invitation.created", "invitation.accepted"]


async def test_a_token_is_worth_something_once(world: World) -> None:
    await world.sign_up("Acme")
    url = await invite(world, "acme", ADA)
    async with browser(world, ADA) as ada, browser(world, ADA) as other:
        body = {"token": token_of(url), "password": NEW_PASSWORD}
        answers = await asyncio.gather(
            *(
                person.client.post(f"{INVITATIONS}/accept", json=body, headers=FROM_HERE)
                for person in (ada, other)
            )
        )
        await world.settle()
        assert {answer.status_code for answer in answers} <= {201, 401, 404}
        assert sum(answer.status_code == 201 for answer in answers) == 1
        again = await ada.accept(url, password=NEW_PASSWORD)
        assert (again.status_code, again.json()["code"]) == (404, "invitation_not_valid")


async def test_what_is_over_is_answered_like_what_never_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sign_up("Acme")
    headers = {"X-Tenant-ID": "acme"}
    replaced = await invite(world, "acme", ADA)
    withdrawn = await invite(world, "acme", ADA)
    (waiting,) = (await world.call("GET", INVITATIONS, headers=headers)).json()["items"]
    gone = await world.call("DELETE", f"{INVITATIONS}/{waiting['id']}", headers=headers)
    assert gone.status_code == 204
    again = await world.call("DELETE", f"{INVITATIONS}/{waiting['id']}", headers=headers)
    assert again.status_code == 404
    monkeypatch.setattr(invitations, "LIFE", timedelta(seconds=-1))
    outlived = await invite(world, "acme", ADA)
    never = f"{withdrawn[:-3]}xyz"
    async with browser(world, ADA) as ada:
        bodies = []
        for url in (replaced, withdrawn, outlived, never):
            answer = await ada.accept(url, password=NEW_PASSWORD)
            assert answer.status_code == 404
            bodies.append({**answer.json(), "request_id": ""})
        assert all(body == bodies[0] for body in bodies)
    assert (await world.call("GET", INVITATIONS, headers=headers)).json()["items"] == []


async def test_an_account_that_exists_must_be_shown(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    ada_id = await add_person(world, ADA, globex="member")
    url = await invite(world, "acme", ADA)
    async with (
        browser(world, ADA) as stranger,
        signed_in(world, "eve@globex.example", globex="owner") as eve,
    ):
        for person, body in (
            (stranger, {}),
            (stranger, {"password": "wrong"}),
            (stranger, {"password": NEW_PASSWORD, "name": "Mallory"}),
            (eve, {}),
            (eve, {"password": PASSWORD + "x"}),
        ):
            answer = await person.accept(url, **body)
            assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_required")
            assert "set-cookie" not in answer.headers
    async with browser(world, ADA) as ada:
        assert (await ada.sign_in()).status_code == 201
        cookie = ada.client.cookies["sluice_session"]
        answer = await ada.accept(url)
        assert answer.status_code == 201
        assert ada.client.cookies["sluice_session"] == cookie
        assert [home["slug"] for home in answer.json()["tenants"]] == ["globex", "acme"]
        assert await ada.user_id() == ada_id


async def test_the_password_shows_it_as_well(world: World) -> None:
    await world.sign_up("Acme")
    await add_person(world, ADA, default="member")
    async with browser(world, ADA) as ada:
        answer = await ada.accept(await invite(world, "acme", ADA), password=PASSWORD)
        assert answer.status_code == 201
        assert (await ada.assert_for("acme")).status_code == 200
        # It was shown, not set.
        assert (await ada.sign_in(PASSWORD)).status_code == 201


async def test_a_page_of_another_site_accepts_nothing(world: World) -> None:
    await world.sign_up("Acme")
    async with signed_in(world, ADA, default="member") as ada:
        url = await invite(world, "acme", ADA)
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
            answer = await ada.client.post(
                f"{INVITATIONS}/accept", json={"token": token_of(url)}, headers=headers
            )
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
        # Without `Origin` the cookie is not looked at.
        answer = await ada.client.post(f"{INVITATIONS}/accept", json={"token": token_of(url)})
        assert answer.status_code == 401


async def test_a_maker_cannot_take_an_account_without_a_password(world: World) -> None:
    """The maker holds the link; it must not open an account that others were given."""
    await world.sign_up("Acme", owner_email=ADA)
    await world.sign_up("Evil")
    url = await invite(world, "evil", ADA)
    async with browser(world, ADA) as mallory:
        answer = await mallory.accept(url, password=NEW_PASSWORD)
        assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_required")


async def test_a_new_owner_chooses_a_password_by_the_operators_link(world: World) -> None:
    made = await world.sign_up("Acme", owner_email=ADA)
    url = made["owner_invitation_url"]
    async with browser(world, ADA) as ada:
        assert (await ada.sign_in(NEW_PASSWORD)).status_code == 401
        short = await ada.accept(url, password="short")
        assert short.status_code == 422
        assert short.json()["fields"][0]["field"] == "body.password"
        answer = await ada.accept(url, name="Ada", password=NEW_PASSWORD)
        assert (answer.status_code, answer.json()["user"]["name"]) == (201, "Ada")
        assert (await ada.assert_for()).json()["tenant"]["role"] == "owner"
        assert (await ada.accept(url, password=NEW_PASSWORD)).status_code == 404
        assert (await ada.sign_in(NEW_PASSWORD)).status_code == 201
    # The e-mail is vouched for by the operator now: no link is needed for a second tenant.
    second = await world.sign_up("Second", owner_email=ADA)
    assert second["owner_invitation_url"] is None
    async with browser(world, ADA) as ada:
        await ada.sign_in(NEW_PASSWORD)
        assert (await ada.assert_for("second")).json()["tenant"]["role"] == "owner"


async def test_an_account_somebody_opened_under_the_owners_email_becomes_no_owner(
    world: World,
) -> None:
    """Pre-hijacking: who only claimed an e-mail gets nothing that is meant for its owner."""
    await world.sign_up("Evil")
    async with browser(world, ADA) as thief, browser(world, ADA) as ada:
        accepted = await thief.accept(
            await invite(world, "evil", ADA), name="Thief", password="the thief's password"
        )
        assert accepted.status_code == 201
        made = await world.sign_up("Acme", owner_email=ADA)
        assert (await thief.assert_for("acme")).status_code == 403
        answer = await ada.accept(made["owner_invitation_url"], password=NEW_PASSWORD)
        assert (answer.status_code, answer.json()["user"]["name"]) == (201, None)
        assert (await ada.assert_for("acme")).json()["tenant"]["role"] == "owner"
        assert (await thief.assert_for()).json()["code"] == "no_session"
        assert (await thief.sign_in("the thief's password")).status_code == 401


async def test_only_the_operator_is_answered_the_owners_link(world: World) -> None:
    async with signed_in(world, ADA, default="member") as ada:
        made = await ada.call("POST", "/api/v1/tenants", json={"name": "Ada"})
        assert (made.status_code, made.json()["owner_invitation_url"]) == (201, None)


async def test_the_same_request_gets_the_same_link(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme")
    headers = {"X-Tenant-ID": "acme", "Idempotency-Key": "once"}
    body = {"email": ADA}
    first = await world.call("POST", INVITATIONS, json=body, headers=headers)
    second = await world.call("POST", INVITATIONS, json=body, headers=headers)
    assert second.json() == first.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    key = {"Idempotency-Key": "once"}
    tenant = {"name": "B", "owner_email": ADA, "settings": {"billing_email": ADA}}
    one = await world.call("POST", "/api/v1/tenants", json=tenant, headers=key)
    two = await world.call("POST", "/api/v1/tenants", json=tenant, headers=key)
    assert one.json() == two.json()
    entered = {"email": "ben@acme.example"}
    three, four = [
        await world.call(
            "POST", "/api/v1/members", json=entered, headers=headers | {"Idempotency-Key": "twice"}
        )
        for _ in range(2)
    ]
    assert (three.status_code, three.json()) == (201, four.json())
    secrets = [token_of(first.json()["url"]), token_of(one.json()["owner_invitation_url"])]
    async with database.admin() as admin:
        kept = await admin.fetch("select answer::text from tenants.idempotency_key")
        assert len(kept) == 3
        assert "@" not in str(kept), "of people nothing is kept: the same request says it again"
        tables = await admin.fetch(
            "select relname from pg_class where relnamespace = 'tenants'::regnamespace "
            "and relkind = 'r'"
        )
        for (table,) in tables:
            text = await admin.fetchval(
                f"select string_agg(to_jsonb(t)::text, ' ') from tenants.{table} t"
            )
            assert not any(secret in (text or "") for secret in secrets), table


async def test_nobody_invites_to_more_than_they_have(world: World) -> None:
    await world.sign_up("Acme")
    async with (
        signed_in(world, "admin@acme.example", acme="admin") as admin,
        signed_in(world, "clerk@acme.example", acme="member") as clerk,
    ):
        clerk_id = public_id("user", await clerk.user_id())
        change = {"permissions": ["members:manage"]}
        await admin.call("PATCH", f"/api/v1/members/{clerk_id}", json=change)
        key = await world.make_key("acme", "members:manage", "billing:manage", "tenants:read")

        async def by_key(**body: Any) -> int:
            answer = await world.call("POST", INVITATIONS, key=key, json={"email": ADA, **body})
            return answer.status_code

        async def by(person: Any, **body: Any) -> int:
            answer = await person.call("POST", INVITATIONS, json={"email": ADA, **body})
            status: int = answer.status_code
            return status

        assert await by(admin, role="owner") == 403
        assert await by(admin, role="admin", permissions=sorted(SCOPES)) == 201
        assert await by(clerk, role="admin") == 403
        assert await by(clerk, role="member", permissions=["ledger:read"]) == 403
        assert await by(clerk, role="member") == 201
        assert await by_key(role="admin") == 403
        assert await by_key(role="owner") == 403
        assert await by_key(role="billing_admin") == 201
        waiting = (await admin.call("GET", INVITATIONS)).json()["items"]
        assert [item["role"] for item in waiting] == ["billing_admin"]
        refused = await clerk.call("DELETE", f"{INVITATIONS}/{waiting[0]['id']}")
        assert refused.status_code == 403


async def test_what_a_maker_lost_its_invitations_lose(world: World) -> None:
    await world.sign_up("Acme")
    async with (
        signed_in(world, "owner@acme.example", acme="owner") as owner,
        signed_in(world, "admin@acme.example", acme="admin") as admin,
        signed_in(world, "gone@acme.example", acme="admin") as gone,
    ):
        urls = []
        for person, email in ((admin, "one@acme.example"), (gone, "two@acme.example")):
            made = await person.call("POST", INVITATIONS, json={"email": email, "role": "admin"})
            urls.append(made.json()["url"])
        admin_id = public_id("user", await admin.user_id())
        gone_id = public_id("user", await gone.user_id())
        await owner.call("PATCH", f"/api/v1/members/{admin_id}", json={"role": "member"})
        await owner.call("DELETE", f"/api/v1/members/{gone_id}")
        async with browser(world, "one@acme.example") as one:
            for url in urls:
                assert (await one.accept(url, password=NEW_PASSWORD)).status_code == 404
    key = await world.make_key("acme", *SCOPES)
    made = await world.call("POST", INVITATIONS, key=key, json={"email": ADA, "role": "admin"})
    listed = await world.call("GET", "/api/v1/api-keys", headers={"X-Tenant-ID": "acme"})
    (shown,) = listed.json()["items"]
    await world.call("DELETE", f"/api/v1/api-keys/{shown['id']}", headers={"X-Tenant-ID": "acme"})
    async with browser(world, ADA) as ada:
        answer = await ada.accept(made.json()["url"], password=NEW_PASSWORD)
        assert answer.status_code == 404


async def test_an_operator_enters_a_member_and_gives_another_link(world: World) -> None:
    await world.sign_up("Acme")
    headers = {"X-Tenant-ID": "acme"}

    async def enter(**body: Any) -> Any:
        return await world.call(
            "POST", "/api/v1/members", json={"email": ADA, **body}, headers=headers
        )

    first = await enter(role="admin")
    assert (first.status_code, first.json()["is_member"]) == (201, True)
    second = await enter(role="admin")
    assert second.json()["id"] == first.json()["id"]
    differs = await enter(role="member")
    assert (differs.status_code, differs.json()["code"]) == (409, "already_member")
    async with browser(world, ADA) as ada:
        stale = await ada.accept(first.json()["invitation_url"], password=NEW_PASSWORD)
        assert stale.status_code == 404
        fresh = await ada.accept(second.json()["invitation_url"], password=NEW_PASSWORD)
        assert fresh.status_code == 201
        assert (await ada.assert_for()).json()["tenant"]["role"] == "admin"
        own = await ada.call("POST", "/api/v1/members", json={"email": "x@acme.example"})
        assert (own.status_code, own.json()["permission"]) == (403, "operator")
    settled = await enter(role="admin")
    assert (settled.status_code, settled.json()["code"]) == (409, "already_member")
    await add_person(world, "claimed@acme.example")
    claimed = await enter(email="claimed@acme.example")
    assert not claimed.json()["is_member"]
    listed = (await world.call("GET", "/api/v1/members", headers=headers)).json()["items"]
    assert [item["email"] for item in listed] == [ADA]
    async with browser(world, "claimed@acme.example") as owner:
        answer = await owner.accept(claimed.json()["invitation_url"], password=NEW_PASSWORD)
        assert [home["slug"] for home in answer.json()["tenants"]] == ["acme"]


async def test_no_link_leads_back_in(world: World) -> None:
    made = await world.sign_up("Acme", owner_email=ADA)
    headers = {"X-Tenant-ID": "acme"}
    await add_person(world, "second@acme.example", acme="owner")
    listed = (await world.call("GET", "/api/v1/members", headers=headers)).json()["items"]
    (ada_id,) = [item["user"] for item in listed if item["email"] == ADA]
    gone = await world.call("DELETE", f"/api/v1/members/{ada_id}", headers=headers)
    assert gone.status_code == 204
    async with browser(world, ADA) as ada:
        answer = await ada.accept(made["owner_invitation_url"], password=NEW_PASSWORD)
        assert answer.status_code == 404


async def test_a_member_is_not_invited_again(world: World) -> None:
    await world.sign_up("Acme")
    await add_person(world, ADA, acme="member")
    answer = await world.call(
        "POST", INVITATIONS, json={"email": ADA, "role": "owner"}, headers={"X-Tenant-ID": "acme"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "already_member")


async def test_who_became_a_member_meanwhile_stays_what_it_is(world: World) -> None:
    await world.sign_up("Acme")
    url = await invite(world, "acme", ADA, role="owner")
    async with signed_in(world, ADA, acme="member") as ada:
        assert (await ada.accept(url)).status_code == 201
        assert (await ada.assert_for()).json()["tenant"]["role"] == "member"


async def test_everything_has_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.sign_up("Acme")
    headers = {"X-Tenant-ID": "acme"}
    monkeypatch.setattr(invitations, "OPEN_MAX", 2)
    urls = [await invite(world, "acme", f"p{number}@acme.example") for number in range(2)]
    full = await world.call("POST", INVITATIONS, json={"email": ADA}, headers=headers)
    assert (full.status_code, full.json()["code"]) == (409, "too_many_invitations")
    assert await invite(world, "acme", "p1@acme.example")
    monkeypatch.setattr(people, "TENANTS_PER_USER_MAX", 1)
    async with signed_in(world, "p0@acme.example", default="member") as person:
        many = await person.accept(urls[0])
        assert (many.status_code, many.json()["code"]) == (409, "too_many_tenants")
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 3, "address": 5})
    async with browser(world, ADA) as guesser:
        statuses = [
            (await guesser.accept(urls[1][:-4] + f"{number:04}")).status_code for number in range(7)
        ]
        assert statuses[-1] == 429


async def test_an_operator_is_made_by_an_operators_invitation(world: World) -> None:
    url = await invite(world, "platform", "second@ops.example", role="admin")
    async with browser(world, "second@ops.example") as second:
        await second.accept(url, password=NEW_PASSWORD)
        asserted = (await second.assert_for()).json()
        assert asserted["user"]["operator"]
        # An admin of the platform makes no owner of it, and nobody may take its owner's place.
        refused = await second.call(
            "POST", INVITATIONS, json={"email": "x@ops.example", "role": "owner"}
        )
        assert refused.status_code == 403
        listed = (await second.call("GET", "/api/v1/members")).json()["items"]
        (owner,) = [item for item in listed if item["email"] == OPERATOR_EMAIL]
        assert (await second.call("DELETE", f"/api/v1/members/{owner['user']}")).status_code == 403


async def test_a_user_tenant_that_invites_becomes_a_team(world: World) -> None:
    made = await world.sign_up("Ada", type="user", owner_email=ADA)
    async with browser(world, ADA) as ada, browser(world, "bob@acme.example") as bob:
        await ada.accept(made["owner_invitation_url"], password=NEW_PASSWORD)
        assert (await ada.call("GET", "/api/v1/teams")).json()["items"] == []
        for email in ("bob@acme.example", "eve@acme.example"):
            answer = await ada.call("POST", INVITATIONS, json={"email": email})
            async with browser(world, email) as joining:
                joined = await joining.accept(answer.json()["url"], password=NEW_PASSWORD)
                assert joined.status_code == 201
        (team,) = (await ada.call("GET", "/api/v1/teams")).json()["items"]
        assert (team["name"], team["everyone"], team["members"]) == ("Ada", True, 3)
        inside = (await ada.call("GET", f"/api/v1/teams/{team['id']}/members")).json()["items"]
        assert {item["email"] for item in inside} == {ADA, "bob@acme.example", "eve@acme.example"}
        # The tenant is what it was: its subscription is the team's.
        shown = (await ada.call("GET", "/api/v1/tenants/ada")).json()
        assert (shown["type"], shown["id"], shown["self_customer_id"]) == (
            "user",
            made["id"],
            made["self_customer_id"],
        )
        await bob.sign_in(NEW_PASSWORD)
        own = (await bob.call("GET", "/api/v1/tenants/ada")).json()
        assert own["id"] == made["id"]


BAD_BODIES: list[dict[str, Any]] = [
    {},
    {"email": "nobody"},
    {"email": ADA, "role": "operator"},
    {"email": ADA, "permissions": ["operator"]},
    {"email": ADA, "permissions": ["usage:read"] * 20},
    {"email": ADA, "token": "mine"},
    {"email": ADA, "tenant_id": "x"},
    {"email": f"{ADA}\x00"},
]


async def test_bad_bodies_are_refused(world: World) -> None:
    for body in BAD_BODIES:
        answer = await world.call("POST", INVITATIONS, json=body)
        assert answer.status_code == 422, body
    url = await invite(world, "default", ADA)
    for more in (
        {"password": "x" * 1025},
        {"name": "a\nb"},
        {"role": "owner"},
        {"email": "other@acme.example"},
        {},
        {"password": "too short"},
    ):
        async with browser(world, ADA) as ada:
            answer = await ada.accept(url, **more)
            assert answer.status_code == 422, more
            assert "too short" not in answer.text
    for reference in ("ivt_x", "x", public_id("user", UUID(int=7))):
        assert (await world.call("DELETE", f"{INVITATIONS}/{reference}")).status_code == 404


async def test_another_tenants_invitation_is_not_there(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    await invite(world, "globex", ADA)
    listed = await world.call("GET", INVITATIONS, headers={"X-Tenant-ID": "globex"})
    (theirs,) = listed.json()["items"]
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        assert (await owner.call("GET", INVITATIONS)).json()["items"] == []
        assert (await owner.call("DELETE", f"{INVITATIONS}/{theirs['id']}")).status_code == 404


async def test_the_email_is_kept_out_of_the_log(world: World) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example")
    async with browser(world, ADA) as ada:
        await ada.accept(await invite(world, "acme", ADA), password=NEW_PASSWORD)
    told = [event.model_dump_json() for event in world.log.events(ConfigurationChanged)]
    assert told
    assert not any("@acme.example" in text for text in told)


async def test_replay_changes_nothing(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example", type="user")
    async with browser(world, ADA) as ada:
        await ada.accept(await invite(world, "acme", ADA), password=NEW_PASSWORD)
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        await world.settle()
        assert await checksums(database) == before


@pytest.mark.parametrize("tenant", ["platform", "acme"])
async def test_a_key_lets_nobody_in_where_it_would_reach_beyond_itself(
    world: World, tenant: str
) -> None:
    """The platform's people are operators; a live tenant's people hold their place in live mode."""
    await world.sign_up("Acme")
    await world.settle()
    key = await world.make_key("acme", *SCOPES)
    body = {"email": ADA, "role": "member"}
    assert (await world.call("POST", INVITATIONS, json=body, key=key)).status_code == 201
    await world.go_live("acme")
    await world.settle()
    if tenant == "platform":
        key = await world.make_key("platform", *SCOPES)
    answer = await world.call("POST", INVITATIONS, json=body, key=key)
    assert answer.status_code == 403
    assert "neither give nor take more" in answer.json()["detail"]
