"""Signing in and out, and the assertions that the console works with."""

import asyncio
from typing import Any

import httpx
import pytest

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto import tokens
from libs.db.pool import Tx
from libs.ids import parse_public_id
from libs.testing.databases import TestDatabase
from services.tenants import jobs, passwords, throttle
from services.tenants.app import build
from services.tenants.roles import PERMISSIONS
from tenants.conftest import OPERATOR_EMAIL, OPERATOR_PASSWORD, World
from tenants.persons import FROM_HERE, PASSWORD, add_person, browser, signed_in

SESSION = "/api/v1/session"
ASSERTION = "/api/v1/session/assertion"


async def sign_in(world: World, email: str, password: str = PASSWORD, **headers: str) -> Any:
    answer = await world.client.post(
        SESSION, json={"email": email, "password": password}, headers=headers
    )
    await world.settle()
    return answer


async def assertion(world: World, **body: str) -> httpx.Response:
    return await asserted(world, {}, **body)


async def asserted(world: World, headers: dict[str, str], **body: str) -> httpx.Response:
    return await world.client.post(ASSERTION, json=body, headers=FROM_HERE | headers)


def verified(world: World, token: str) -> tokens.Claims:
    keys = world.snapshot(PLATFORM_TENANT_ID).assertion_keys
    return tokens.verify(token, {key.key_id: key.public_key for key in keys}, utc_now())


async def test_the_operator_signs_in_and_acts_for_a_tenant(world: World) -> None:
    await world.sign_up("Acme")
    answer = await sign_in(world, OPERATOR_EMAIL.upper(), OPERATOR_PASSWORD)
    assert answer.status_code == 201
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("sluice_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    made = (await assertion(world)).json()
    assert made["user"]["operator"]
    assert made["tenant"]["slug"] == "platform"
    claims = verified(world, made["assertion"])
    assert (claims.operator, claims.role, claims.mode) == (True, "owner", "test")
    own = await world.call("GET", "/api/v1/tenants", key=made["assertion"])
    assert {item["slug"] for item in own.json()["items"]} == {"platform", "default", "acme"}
    other = await world.call(
        "GET", "/api/v1/tenants/acme", key=made["assertion"], headers={"X-Tenant-ID": "acme"}
    )
    assert other.status_code == 200
    acted = [e for e in world.log.events(SecurityEventRaised) if e.data.kind == "operator_access"]
    assert acted[-1].data.actor == made["user"]["id"]
    refused = await assertion(world, tenant="acme")
    assert (refused.status_code, refused.json()["code"]) == (403, "tenant_forbidden")


async def test_a_role_gives_what_the_table_says(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    for role, permissions in PERMISSIONS.items():
        email = f"{role}@acme.example"
        await add_person(world, email, acme=role)
        assert (await sign_in(world, email)).status_code == 201
        made = (await assertion(world)).json()
        assert made["permissions"] == sorted(permissions)
        assert [home["slug"] for home in made["tenants"]] == ["acme"]
        token = made["assertion"]
        managed = await world.call("GET", "/api/v1/api-keys", key=token)
        assert managed.status_code == (200 if role in ("owner", "admin") else 403)
        assert (await world.call("GET", "/api/v1/tenants/acme", key=token)).status_code == 200
        assert (await world.call("GET", "/api/v1/tenants/globex", key=token)).status_code == 403
        assert (await assertion(world, tenant="globex")).status_code == 403
        assert (await assertion(world, tenant="nobody")).status_code == 403


async def test_one_chooses_tenant_and_mode(world: World) -> None:
    acme = await world.sign_up("Acme")
    globex = await world.sign_up("Globex")
    await add_person(world, "ada@acme.example", acme="owner", globex="member")
    await sign_in(world, "ada@acme.example")
    for reference in ("globex", "GLOBEX", globex["id"]):
        made = (await assertion(world, tenant=reference, mode="live")).json()
        claims = verified(world, made["assertion"])
        assert (str(claims.tenant_id), claims.mode, claims.role) == (
            globex["id"],
            "live",
            "member",
        )
    made = (await assertion(world)).json()
    assert (made["tenant"]["id"], made["mode"]) == (acme["id"], "test")
    # The header picks among the memberships as well; it and the body name one tenant.
    for name in ("X-Tenant-ID", "X-Organization-ID"):
        for more in ({}, {"tenant": "globex"}):
            picked = await asserted(world, {name: globex["id"]}, **more)
            assert picked.json()["tenant"]["slug"] == "globex"
        differ = await asserted(world, {name: globex["id"]}, tenant="acme")
        assert (differ.status_code, differ.json()["code"]) == (400, "invalid_request")
        for stranger in ("nobody", "platform"):
            refused = await asserted(world, {name: stranger})
            assert (refused.status_code, refused.json()["code"]) == (403, "tenant_forbidden")
    await world.settle()
    denied = [e for e in world.log.events(SecurityEventRaised) if e.data.kind == "tenant_denied"]
    assert [(str(e.tenant_id), e.data.severity) for e in denied] == [(acme["id"], "warning")] * 4
    listed = await world.call("GET", "/api/v1/tenants", key=made["assertion"])
    assert {item["slug"] for item in listed.json()["items"]} == {"acme", "globex"}


async def test_a_signed_in_user_makes_a_tenant_of_its_own(world: World) -> None:
    user_id = await add_person(world, "ada@example.com", default="member")
    await sign_in(world, "ada@example.com")
    token = (await assertion(world)).json()["assertion"]
    path = "/api/v1/tenants"
    for_other = {"name": "Hers", "owner_email": "eve@example.com"}
    refused = await world.call("POST", path, key=token, json=for_other)
    assert refused.status_code == 403
    made = await world.call("POST", path, key=token, json={"name": "Ada", "type": "user"})
    assert (made.status_code, made.json()["type"]) == (201, "user")
    assert parse_public_id("user", made.json()["created_by"]) == user_id
    homes = (await assertion(world)).json()["tenants"]
    assert [(home["slug"], home["role"], home["primary"]) for home in homes] == [
        ("default", "member", True),
        ("ada", "owner", False),
    ]


async def test_signing_out_ends_the_session_and_its_assertions(world: World) -> None:
    await world.sign_up("Acme")
    await add_person(world, "ada@acme.example", acme="owner")
    await sign_in(world, "ada@acme.example")
    token = (await assertion(world)).json()["assertion"]
    cookie = world.client.cookies["sluice_session"]
    assert (await world.call("GET", "/api/v1/tenants/acme", key=token)).status_code == 200
    ended = await world.client.delete(SESSION, headers=FROM_HERE)
    assert (ended.status_code, ended.content) == (204, b"")
    await world.settle()
    assert (await world.call("GET", "/api/v1/tenants/acme", key=token)).status_code == 401
    for stale in (cookie, "x", "x" * 5000, "%00"):
        answer = await world.client.post(
            ASSERTION, headers=FROM_HERE | {"Cookie": f"sluice_session={stale}"}
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "no_session")
    assert (await world.client.delete(SESSION, headers=FROM_HERE)).status_code == 204


async def test_signing_in_again_ends_the_session_before(world: World) -> None:
    await sign_in(world, OPERATOR_EMAIL, OPERATOR_PASSWORD)
    first = world.client.cookies["sluice_session"]
    await sign_in(world, OPERATOR_EMAIL, OPERATOR_PASSWORD)
    second = world.client.cookies["sluice_session"]
    assert first != second
    old = await world.client.post(
        ASSERTION, headers=FROM_HERE | {"Cookie": f"sluice_session={first}"}
    )
    assert old.status_code == 401
    assert (await assertion(world)).status_code == 200


async def test_another_sites_page_gets_nothing(world: World) -> None:
    await sign_in(world, OPERATOR_EMAIL, OPERATOR_PASSWORD)
    for origin in (None, "http://localhost:8080", "https://evil.example", "null"):
        headers = {} if origin is None else {"Origin": origin}
        for method, path in (("POST", ASSERTION), ("DELETE", SESSION)):
            answer = await world.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
        if origin is not None:
            answer = await sign_in(world, OPERATOR_EMAIL, OPERATOR_PASSWORD, **headers)
            assert answer.status_code == 403
    assert (await assertion(world)).status_code == 200


async def test_a_form_of_another_site_cannot_sign_anybody_in(world: World) -> None:
    answer = await world.client.post(
        SESSION, data={"email": OPERATOR_EMAIL, "password": OPERATOR_PASSWORD}
    )
    assert answer.status_code in (415, 422)
    assert "set-cookie" not in answer.headers


async def test_failures_are_alike_recorded_and_throttled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 3, "address": 100})
    await add_person(world, "ada@example.com", default="member")
    await world.sign_up("Acme", owner_email="nopassword@acme.example")
    bodies = []
    for email in ("ada@example.com", "nobody@example.com", "nopassword@acme.example"):
        for _ in range(3):
            answer = await sign_in(world, email, "wrong")
            assert answer.status_code == 401
            bodies.append({**answer.json(), "request_id": ""})
        closed = await sign_in(world, email, PASSWORD)
        assert closed.status_code == 429
        assert 1 <= int(closed.headers["Retry-After"]) <= 15 * 60 + 1
    assert all(body == bodies[0] for body in bodies)
    failed = [e for e in world.log.events(SecurityEventRaised) if e.data.kind == "sign_in_failed"]
    assert len(failed) == 9
    assert {(event.tenant_id, event.data.actor) for event in failed} == {
        (PLATFORM_TENANT_ID, "anonymous")
    }


async def test_many_tries_at_once_do_not_pass_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 3, "address": 100})
    monkeypatch.setattr(passwords, "_verify", lambda *_: False)
    answers = await asyncio.gather(
        *(
            world.client.post(SESSION, json={"email": "a@example.com", "password": str(n)})
            for n in range(10)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 7


async def test_an_address_is_throttled_over_all_emails_and_cannot_be_invented(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 100, "address": 3})
    monkeypatch.setattr(passwords, "_verify", lambda *_: False)
    statuses = []
    for number in range(5):
        forged = f"203.0.113.{number}, 198.51.100.7"
        headers = {"X-Forwarded-For": forged}
        answer = await sign_in(world, f"a{number}@example.com", "x", **headers)
        statuses.append(answer.status_code)
    assert statuses == [401, 401, 401, 429, 429]
    elsewhere = await sign_in(world, "a9@example.com", "x", **{"X-Forwarded-For": "198.51.100.8"})
    assert elsewhere.status_code == 401


async def test_a_success_forgives_what_failed_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 2, "address": 100})
    for password in ("x", OPERATOR_PASSWORD, "x", OPERATOR_PASSWORD):
        answer = await sign_in(world, OPERATOR_EMAIL, password)
        assert answer.status_code == (401 if password == "x" else 201)


async def test_a_failed_sign_in_does_the_same_whoever_exists(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack A22: the same statements, and the same work on the password, one after the other."""
    await add_person(world, "ada@example.com", default="member")
    done: list[str] = []
    is_password = passwords.is_password

    async def watched(password: str, known: str | None) -> bool:
        done.append("argon2")
        return await is_password(password, known)

    def noted(name: str) -> None:
        run = getattr(Tx, name)

        async def statement(tx: Tx, sql: str, *args: Any) -> Any:
            done.append(sql)
            return await run(tx, sql, *args)

        monkeypatch.setattr(Tx, name, statement)

    monkeypatch.setattr(passwords, "is_password", watched)
    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
        noted(name)
    work, said = [], []
    for email in ("ada@example.com", "nobody@example.com"):
        done.clear()
        answer = await world.client.post(SESSION, json={"email": email, "password": "wrong"})
        assert answer.status_code == 401
        work.append(list(done))
        said.append({name: value for name, value in answer.json().items() if name != "request_id"})
    assert "argon2" in work[0]
    assert work[0] == work[1]
    assert said[0] == said[1]


BAD_BODIES: list[dict[str, Any]] = [
    {},
    {"email": OPERATOR_EMAIL},
    {"email": "x", "password": "y"},
    {"email": OPERATOR_EMAIL, "password": ""},
    {"email": OPERATOR_EMAIL, "password": "x" * 1025},
    {"email": OPERATOR_EMAIL, "password": ["x"]},
    {"email": f"{OPERATOR_EMAIL}\x00", "password": "x"},
    {"email": OPERATOR_EMAIL, "password": "x", "admin": True},
]


async def test_a_bad_body_is_refused_and_not_repeated(world: World) -> None:
    for body in BAD_BODIES:
        answer = await world.client.post(SESSION, json=body)
        assert answer.status_code == 422, body
        assert "xxxx" not in answer.text


async def test_on_https_the_cookie_is_bound_to_the_host(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_ORIGIN", "https://billing.example.com")
    world.app.state.settings = type(world.settings)()
    answer = await sign_in(world, OPERATOR_EMAIL, OPERATOR_PASSWORD)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-sluice_session=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLUICE_OPERATOR_KEY", "slk_test_nonsense"),
        ("SLUICE_OPERATOR_PASSWORD", "short"),
        ("SLUICE_OPERATOR_EMAIL", "nobody"),
        ("SLUICE_MASTER_KEYS", "k1"),
        ("SLUICE_STRIPE_CURRENCY", "XXX"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_not_repeated(
    environment: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        build()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert variable in told
    assert value not in told


OWN_SESSIONS = "/api/v1/sessions"
PASSWORD_PATH = "/api/v1/session/password"


async def test_a_person_sees_its_sessions_and_ends_them(world: World) -> None:
    await world.sign_up("Acme")
    await add_person(world, "eve@acme.example", acme="owner")
    async with (
        signed_in(world, "ada@acme.example", acme="member") as ada,
        browser(world, "ada@acme.example") as phone,
        browser(world, "ada@acme.example") as old,
        browser(world, "eve@acme.example") as eve,
    ):
        for person in (phone, old, eve):
            assert (await person.sign_in()).status_code == 201
        shown = (await ada.call("GET", OWN_SESSIONS)).json()["items"]
        assert [item["current"] for item in shown] == [False, False, True]
        assert {item["remote_address"] for item in shown} == {"127.0.0.1"}
        used = shown[2]["last_used_at"]
        assert used.endswith(("00:00Z", "15:00Z", "30:00Z", "45:00Z"))
        assert shown[0]["last_used_at"] is None
        token = await phone.assertion()
        phone_id = shown[1]["id"]
        assert (await eve.call("DELETE", f"{OWN_SESSIONS}/{phone_id}")).status_code == 404
        assert (await ada.call("DELETE", f"{OWN_SESSIONS}/{phone_id}")).status_code == 204
        assert (await ada.call("DELETE", f"{OWN_SESSIONS}/{phone_id}")).status_code == 404
        assert (await phone.assert_for()).json()["code"] == "no_session"
        assert (await world.call("GET", "/api/v1/tenants/acme", key=token)).status_code == 401
        assert (await ada.call("DELETE", OWN_SESSIONS)).status_code == 204
        assert (await old.assert_for()).json()["code"] == "no_session"
        assert (await eve.assert_for()).status_code == 200
        (left,) = (await ada.call("GET", OWN_SESSIONS)).json()["items"]
        assert left["current"]
        for reference in ("ses_x", "x", left["id"].replace("ses_", "usr_")):
            assert (await ada.call("DELETE", f"{OWN_SESSIONS}/{reference}")).status_code == 404


async def test_a_password_changes_with_the_old_one_and_ends_the_other_sessions(
    world: World, database: TestDatabase
) -> None:
    new = "another quiet morning"
    await world.sign_up("Acme")
    async with (
        signed_in(world, "ada@acme.example", acme="member") as ada,
        browser(world, "ada@acme.example") as phone,
    ):
        await phone.sign_in()
        wrong = {"old_password": "wrong", "new_password": new}
        refused = await ada.call("PUT", PASSWORD_PATH, json=wrong)
        assert (refused.status_code, refused.json()["code"]) == (401, "wrong_password")
        for body in (
            {"old_password": PASSWORD},
            {"old_password": PASSWORD, "new_password": "short"},
            {"old_password": PASSWORD, "new_password": "x" * 1025},
            {"old_password": PASSWORD, "new_password": new, "user": "other"},
        ):
            assert (await ada.call("PUT", PASSWORD_PATH, json=body)).status_code == 422
        right = {"old_password": PASSWORD, "new_password": new}
        assert (await ada.call("PUT", PASSWORD_PATH, json=right)).status_code == 204
        assert (await ada.assert_for()).status_code == 200
        assert (await phone.assert_for()).json()["code"] == "no_session"
        assert (await phone.sign_in(PASSWORD)).status_code == 401
        assert (await phone.sign_in(new)).status_code == 201
        again = {"old_password": new, "new_password": PASSWORD}
        assert (await ada.call("PUT", PASSWORD_PATH, json=again)).status_code == 204
    await jobs.prune(world.database)
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from tenants.user_password") == 1
    kinds = [e.data.kind for e in world.log.events(SecurityEventRaised)]
    assert kinds.count("password_changed") == 2


async def test_guessing_the_old_password_is_throttled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 3, "address": 100})
    async with signed_in(world, "ada@acme.example", default="member") as thief:
        body = {"old_password": "wrong", "new_password": "another quiet morning"}
        statuses = [
            (await thief.call("PUT", PASSWORD_PATH, json=body)).status_code for _ in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]


async def test_a_key_has_neither_sessions_nor_password(world: World) -> None:
    for method, path, body in (
        ("GET", OWN_SESSIONS, None),
        ("DELETE", OWN_SESSIONS, None),
        ("DELETE", f"{OWN_SESSIONS}/ses_x", None),
        ("PUT", PASSWORD_PATH, {"old_password": "x", "new_password": "x" * 12}),
    ):
        answer = await world.call(method, path, json=body)
        assert answer.status_code == 403


async def test_sign_ins_are_told_apart_behind_the_console(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy and console are ours; the last address in the chain that is not counts."""
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 100, "address": 2})
    monkeypatch.setattr(passwords, "_verify", lambda *_: False)
    statuses = []
    for number in range(6):
        chain = f"203.0.113.{number % 2}, 127.0.0.1"
        answer = await sign_in(world, f"a{number}@example.com", "x", **{"X-Forwarded-For": chain})
        statuses.append(answer.status_code)
    assert statuses == [401, 401, 401, 401, 429, 429]
