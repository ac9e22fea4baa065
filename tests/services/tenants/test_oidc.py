"""Signing in at a real identity provider, and what a hostile one or a hostile browser tries."""

import asyncio
import base64
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from deploy.local.ports import scratch_port
from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from services.tenants import identities, oidc, people, store_people, throttle
from services.tenants.settings import Settings
from tenants.conftest import ORIGIN, World
from tenants.persons import Person, add_person, browser, invite

START = "/api/v1/session/oidc/start"
CALLBACK = "/api/v1/session/oidc/callback"
ADA = "ada@acme.example"


@pytest.fixture(scope="module")
def provider() -> Generator[str, None, None]:
    """A provider that others wrote, in a process of its own; its issuer."""
    port = scratch_port()
    arguments = ["-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce"]
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    issuer = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(issuer)
        yield issuer
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_it_answers(address: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(address).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the provider did not start")


def configure(world: World, monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    monkeypatch.setenv("SLUICE_OIDC_ISSUER", issuer)
    monkeypatch.setenv("SLUICE_OIDC_CLIENT_ID", "sluice")
    monkeypatch.setenv("SLUICE_OIDC_CLIENT_SECRET", "not guessed")
    world.app.state.settings = Settings()
    world.app.state.oidc_provider = None


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch, provider: str) -> World:
    """The service, with the provider configured."""
    configure(world, monkeypatch, provider)
    return world


async def know(provider: str, subject: str, **claims: Any) -> None:
    """Have the provider know somebody."""
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.put(f"{provider}/users/{subject}", json=claims)
        assert answer.status_code == 204


async def start(person: Person, **query: str) -> str:
    """Begin to sign in: where the browser is sent to."""
    answer = await person.client.get(START, params=query)
    assert answer.status_code == 302, answer.headers["location"]
    address: str = answer.headers["location"]
    return address


async def at_provider(address: str, subject: str) -> str:
    """Sign in at the provider: the path and query with which the browser comes back."""
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(address, data={"sub": subject})
    assert answer.status_code == 302, answer.text
    back = urlsplit(answer.headers["location"])
    assert f"{back.scheme}://{back.netloc}{back.path}" == ORIGIN + CALLBACK
    return f"{back.path}?{back.query}"


async def sign_in(person: Person, subject: str, **query: str) -> httpx.Response:
    back = await at_provider(await start(person, **query), subject)
    answer = await person.client.get(back)
    await person.world.settle()
    return answer


def with_query(address: str, **changes: str | None) -> str:
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query)) | changes
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept)))


def is_refused(answer: httpx.Response, reason: str) -> bool:
    cookies = [each for each in answer.headers.get_list("set-cookie") if "sluice_session" in each]
    return (answer.status_code, answer.headers["location"], cookies) == (
        303,
        f"/login?problem={reason}",
        [],
    )


async def test_somebody_new_signs_in_and_accepts_an_invitation(here: World, provider: str) -> None:
    await here.sign_up("Acme")
    await know(provider, "ada", email="Ada@Acme.Example", email_verified=True, name="Ada")
    async with browser(here, ADA) as ada:
        answer = await sign_in(ada, "ada", return_to="/invoices?tenant=acme")
        assert (answer.status_code, answer.headers["location"]) == (303, "/invoices?tenant=acme")
        assert any("sluice_session=" in each for each in answer.headers.get_list("set-cookie"))
        lonely = await ada.assert_for()
        assert (lonely.status_code, lonely.json()["code"]) == (403, "tenant_forbidden")
        url = await invite(here, "acme", ADA, role="admin")
        accepted = await ada.accept(url)
        assert accepted.status_code == 201
        assert accepted.json()["user"]["email"] == ADA
        assert (await ada.call("GET", "/api/v1/members")).status_code == 200


async def test_a_user_keeps_its_account_whatever_the_email_becomes(
    here: World, provider: str
) -> None:
    await here.sign_up("Acme")
    await know(provider, "grace", email="grace@acme.example", email_verified=True)
    async with browser(here, "grace@acme.example") as grace:
        await sign_in(grace, "grace")
        await grace.accept(await invite(here, "acme", "grace@acme.example"))
        first = await grace.user_id()
    await know(provider, "grace", email="new@elsewhere.example", email_verified=False)
    async with browser(here, "grace@acme.example") as again:
        assert (await sign_in(again, "grace")).headers["location"] == "/tenants"
        assert await again.user_id() == first


async def test_an_account_whose_email_was_proved_keeps_its_password(
    here: World, provider: str
) -> None:
    await here.sign_up("Acme")
    user_id = await add_person(here, "proved@acme.example", acme="member")
    async with here.database.transaction() as tx:
        await store_people.insert_email_proof(tx, user_id, utc_now())
    await know(provider, "proved", email="proved@acme.example", email_verified=True)
    async with browser(here, "proved@acme.example") as person:
        await sign_in(person, "proved")
        assert await person.user_id() == user_id
        assert (await person.sign_in()).status_code == 201


async def test_whoever_opened_an_account_under_a_strange_email_loses_it(
    here: World, provider: str
) -> None:
    """An account may have been opened by somebody who only claimed the e-mail."""
    await here.sign_up("Acme")
    await add_person(here, "victim@acme.example", acme="member")
    async with browser(here, "victim@acme.example") as thief:
        assert (await thief.sign_in()).status_code == 201
        await know(provider, "victim", email="victim@acme.example", email_verified=True)
        async with browser(here, "victim@acme.example") as victim:
            assert (await sign_in(victim, "victim")).status_code == 303
            assert (await victim.assert_for()).status_code == 200
        assert (await thief.assert_for()).json()["code"] == "no_session"
        assert (await thief.sign_in()).status_code == 401


async def test_an_unverified_email_opens_and_takes_nothing(here: World, provider: str) -> None:
    await add_person(here, "owner@acme.example", default="owner")
    for number, verified in enumerate((False, None, "false", 0)):
        claims = {} if verified is None else {"email_verified": verified}
        for email in ("owner@acme.example", "nobody@acme.example"):
            subject = f"mallory{number}"
            await know(provider, subject, email=email, **claims)
            async with browser(here, email) as mallory:
                answer = await sign_in(mallory, subject)
                assert is_refused(answer, "email_unverified")
    async with here.database.transaction() as tx:
        assert await store_people.find_account(tx, "nobody@acme.example") is None


async def test_an_email_given_to_somebody_else_does_not_bring_the_account(
    here: World, provider: str
) -> None:
    await know(provider, "leaver", email="sales@acme.example", email_verified=True)
    await know(provider, "joiner", email="sales@acme.example", email_verified=True)
    async with browser(here, "x") as leaver, browser(here, "x") as joiner:
        assert (await sign_in(leaver, "leaver")).headers["location"] == "/tenants"
        assert is_refused(await sign_in(joiner, "joiner"), "email_taken")


async def test_state_is_needed_used_once_and_of_this_browser(here: World, provider: str) -> None:
    await know(provider, "ada", email=ADA, email_verified=True)
    async with browser(here, ADA) as ada, browser(here, "mallory@evil.example") as mallory:
        theirs = await at_provider(await start(mallory), "ada")
        for attack in (CALLBACK, f"{CALLBACK}?code=x", f"{CALLBACK}?code=x&state=y", theirs):
            assert is_refused(await ada.client.get(attack), "sign_in_expired")
        back = await at_provider(await start(ada), "ada")
        for changed in (with_query(back, state=None), with_query(back, state="x" * 43)):
            cookie = ada.client.cookies["sluice_oidc"]
            assert is_refused(await ada.client.get(changed), "sign_in_expired")
            ada.client.cookies.set("sluice_oidc", cookie, domain="127.0.0.1", path="/")
        assert is_refused(await mallory.client.get(back), "sign_in_expired")
        cookie = ada.client.cookies["sluice_oidc"]
        assert (await ada.client.get(back)).headers["location"] == "/tenants"
        ada.client.cookies.set("sluice_oidc", cookie, domain="127.0.0.1", path="/")
        assert is_refused(await ada.client.get(back), "sign_in_expired")
    await here.settle()
    failed = [e for e in here.log.events(SecurityEventRaised) if e.data.kind == "sign_in_failed"]
    assert len(failed) == 8


async def test_a_sign_in_is_over_after_ten_minutes(
    here: World, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "LIFE", timedelta(seconds=-1))
    await know(provider, "ada", email=ADA, email_verified=True)
    async with browser(here, ADA) as ada:
        monkeypatch.setattr(oidc, "LIFE", timedelta(seconds=1))
        back = await at_provider(await start(ada), "ada")
        await asyncio.sleep(1.1)
        ada.client.cookies.set("sluice_oidc", "gone", domain="127.0.0.1", path="/")
        assert is_refused(await ada.client.get(back), "sign_in_expired")


async def test_a_foreign_nonce_is_refused(here: World, provider: str) -> None:
    """A code that was issued for another sign-in is injected into this one (RFC 9700, 4.5)."""
    await know(provider, "ada", email=ADA, email_verified=True)
    async with browser(here, ADA) as ada:
        address = await start(ada)
        back = await at_provider(with_query(address, nonce="foreign"), "ada")
        assert is_refused(await ada.client.get(back), "sign_in_failed")


async def test_a_refusal_at_the_provider_is_told(here: World) -> None:
    async with browser(here, ADA) as ada:
        query = parse_qs(urlsplit(await start(ada)).query)
        back = f"{CALLBACK}?error=access_denied&state={query['state'][0]}"
        assert is_refused(await ada.client.get(back), "sign_in_refused")


RETURNS = {
    "/usage?tenant=acme&mode=live": "/usage?tenant=acme&mode=live",
    "https://evil.example/": "/tenants",
    "//evil.example": "/tenants",
    "/\\evil.example": "/tenants",
    "\\\\evil.example": "/tenants",
    "/\t/evil.example": "/tenants",
    "javascript:alert(1)": "/tenants",
    "evil.example": "/tenants",
    "": "/tenants",
}


async def test_the_way_back_never_leads_elsewhere(here: World, provider: str) -> None:
    await know(provider, "ada", email=ADA, email_verified=True)
    async with browser(here, ADA) as ada:
        for wanted, led in RETURNS.items():
            answer = await sign_in(ada, "ada", return_to=wanted)
            assert answer.headers["location"] == led


async def test_begun_sign_ins_are_limited_by_address(
    here: World, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FAILURES_MAX", {"email": 3, "address": 3})
    await know(provider, "ada", email=ADA, email_verified=True)
    async with browser(here, ADA) as ada:
        for _ in range(5):
            assert (await sign_in(ada, "ada")).headers["location"] == "/tenants"
        statuses = [(await ada.client.get(START)).status_code for _ in range(5)]
        assert statuses == [302, 302, 302, 429, 429]


async def test_without_a_provider_there_is_nothing_here(world: World) -> None:
    for path in (START, CALLBACK):
        answer = await world.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "oidc_not_configured")


@pytest.mark.parametrize(
    ("issuer", "client"),
    [
        ("http://accounts.example.com", "sluice"),
        ("accounts.example.com", "sluice"),
        ("https://user@accounts.example.com", "sluice"),
        ("https://accounts.example.com/?x", "sluice"),
        ("https://accounts.example.com", ""),
    ],
)
def test_a_wrong_setting_stops_the_start(
    environment: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    issuer: str,
    client: str,
) -> None:
    monkeypatch.setenv("SLUICE_OIDC_ISSUER", issuer)
    monkeypatch.setenv("SLUICE_OIDC_CLIENT_ID", client)
    with pytest.raises(ValueError, match=r"SLUICE_OIDC|https|address"):
        Settings()


async def test_on_https_the_cookie_is_bound_to_the_host(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_ORIGIN", "https://billing.example.com")
    here.app.state.settings = Settings()
    answer = await here.client.get(START)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-sluice_oidc=")
    assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"))
    assert "Domain" not in cookie


@dataclass
class Hostile:
    """A provider that does whatever the test says; it checks PKCE as a good one does."""

    issuer: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1"}))
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=lambda: {"alg": "RS256", "kid": "k1"})
    signing: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> FastAPI:
        """Its endpoints."""
        app = FastAPI(openapi_url=None)

        @app.get("/.well-known/openid-configuration")
        async def discover() -> dict[str, Any]:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
            } | self.metadata

        @app.get("/jwks")
        async def jwks() -> dict[str, Any]:
            return {"keys": [self.key.as_dict(private=False)]}

        @app.get("/userinfo")
        async def userinfo() -> dict[str, Any]:
            return self.userinfo

        @app.post("/token")
        async def token(request: Request) -> JSONResponse:
            form = {name: str(value) for name, value in parse_qsl((await request.body()).decode())}
            self.forms.append(form)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if challenge != self.begun["code_challenge"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            return JSONResponse(
                {"access_token": "at", "token_type": "Bearer", "id_token": self.id_token()}
            )

        return app

    def id_token(self) -> str:
        """The token as the test wants it."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "ada",
            "aud": "sluice",
            "iat": now,
            "exp": now + 60,
            "nonce": self.begun["nonce"],
            "email": ADA,
            "email_verified": True,
        } | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.header["alg"] == "none":
            parts = [{"alg": "none"}, claims]
            return ".".join(_encoded(part) for part in parts) + "."
        algorithms = [self.header["alg"]]
        return jwt.encode(self.header, claims, self.signing or self.key, algorithms=algorithms)


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.fixture
async def hostile() -> AsyncGenerator[Hostile, None]:
    """The hostile provider, listening."""
    program = Hostile()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        program.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(program.app(), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield program
        server.should_exit = True
        await serving


async def come_back(person: Person, hostile: Hostile, **changes: str) -> httpx.Response:
    """Begin, and come back from the hostile provider."""
    answer = await person.client.get(START)
    if answer.status_code != 302:
        return answer
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    hostile.begun = {name: values[0] for name, values in query.items()}
    back = {"code": "c", "state": hostile.begun["state"]} | changes
    return await person.client.get(CALLBACK, params=back)


OTHER_KEY = RSAKey.generate_key(2048, {"kid": "k1"})
TOKENS: list[dict[str, Any]] = [
    {"claims": {"iss": "https://evil.example"}},
    {"claims": {"iss": None}},
    {"claims": {"aud": "another"}},
    {"claims": {"aud": ["another"]}},
    {"claims": {"aud": ["sluice", "another"]}},
    {"claims": {"aud": ["sluice", "another"], "azp": "another"}},
    {"claims": {"azp": "another"}},
    {"claims": {"aud": None}},
    {"claims": {"nonce": "foreign"}},
    {"claims": {"nonce": None}},
    {"claims": {"nonce": ["x"]}},
    {"claims": {"exp": int(time.time()) - 3600}},
    {"claims": {"exp": None}},
    {"claims": {"exp": "soon"}},
    {"claims": {"iat": int(time.time()) + 36_000}},
    {"claims": {"sub": None}},
    {"claims": {"sub": 7}},
    {"claims": {"sub": ""}},
    {"claims": {"sub": "x" * 300}},
    {"claims": {"at_hash": "d3Jvbmc"}},
    {"header": {"alg": "none"}},
    {"header": {"alg": "HS256", "kid": "k1"}, "signing": "public"},
    {"signing": OTHER_KEY},
    {"header": {"alg": "RS256", "kid": "k2"}},
]


async def test_a_token_that_does_not_fit_signs_nobody_in(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    await add_person(world, ADA, default="owner")
    for attack in TOKENS:
        fresh = Hostile()
        hostile.claims = attack.get("claims", fresh.claims)
        hostile.header = attack.get("header", fresh.header)
        hostile.signing = attack.get("signing")
        if hostile.signing == "public":
            hostile.signing = OctKey.import_key(hostile.key.as_pem(private=False).hex())
        async with browser(world, ADA) as ada:
            answer = await come_back(ada, hostile)
            assert is_refused(answer, "sign_in_failed"), attack
            assert (await ada.assert_for()).status_code == 401
    hostile.claims, hostile.header, hostile.signing = {}, fresh.header, None
    async with browser(world, ADA) as ada:
        assert (await come_back(ada, hostile)).headers["location"] == "/tenants"


async def test_pkce_and_the_clients_secret_are_sent(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    async with browser(world, ADA) as ada:
        assert (await come_back(ada, hostile)).headers["location"] == "/tenants"
        assert hostile.begun["code_challenge_method"] == "S256"
        assert hostile.begun["redirect_uri"] == ORIGIN + CALLBACK
        (form,) = hostile.forms
        assert form["grant_type"] == "authorization_code"
        assert form["redirect_uri"] == ORIGIN + CALLBACK
        assert len(form["code_verifier"]) >= 43
        # Another one's code: its challenge was made of another verifier.
        other = await ada.client.get(START)
        query = parse_qs(urlsplit(other.headers["location"]).query)
        hostile.begun["nonce"] = query["nonce"][0]
        back = {"code": "c", "state": query["state"][0]}
        assert is_refused(await ada.client.get(CALLBACK, params=back), "sign_in_failed")


async def test_the_answer_of_another_provider_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    """Mix-up (RFC 9207): `iss` in the answer names who answered."""
    configure(world, monkeypatch, hostile.issuer)
    async with browser(world, ADA) as ada:
        answer = await come_back(ada, hostile, iss="https://evil.example")
        assert is_refused(answer, "sign_in_failed")
        assert hostile.forms == []
        answer = await come_back(ada, hostile, iss=hostile.issuer)
        assert answer.headers["location"] == "/tenants"
        hostile.metadata = {"authorization_response_iss_parameter_supported": True}
        world.app.state.oidc_provider = None
        assert is_refused(await come_back(ada, hostile), "sign_in_failed")


BAD_METADATA: list[dict[str, Any]] = [
    {"issuer": "https://evil.example"},
    {"issuer": None},
    {"token_endpoint": "http://evil.example/token"},
    {"jwks_uri": "file:///etc/passwd"},
    {"authorization_endpoint": "javascript:alert(1)"},
    {"id_token_signing_alg_values_supported": ["none", "HS256"]},
]


async def test_a_provider_that_is_another_than_configured_is_not_used(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    for metadata in BAD_METADATA:
        hostile.metadata = metadata
        async with browser(world, ADA) as ada:
            assert is_refused(await come_back(ada, hostile), "sign_in_unavailable"), metadata


async def test_a_provider_that_is_away_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(world, monkeypatch, "http://127.0.0.1:9")
    async with browser(world, ADA) as ada:
        assert is_refused(await ada.client.get(START), "sign_in_unavailable")


async def test_an_email_told_apart_must_be_the_same_persons(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    hostile.claims = {"email": None, "email_verified": None}
    async with browser(world, ADA) as ada:
        hostile.userinfo = {"sub": "another", "email": ADA, "email_verified": True}
        assert is_refused(await come_back(ada, hostile), "sign_in_failed")
        hostile.userinfo = {"sub": "ada", "email": ADA, "email_verified": True}
        assert (await come_back(ada, hostile)).headers["location"] == "/tenants"


async def test_a_key_that_the_provider_changed_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    monkeypatch.setattr(oidc, "KEYS_AGAIN_SECONDS", 0)
    async with browser(world, ADA) as ada:
        assert (await come_back(ada, hostile)).headers["location"] == "/tenants"
        hostile.key = RSAKey.generate_key(2048, {"kid": "k2"})
        hostile.header = {"alg": "RS256", "kid": "k2"}
        assert (await come_back(ada, hostile)).headers["location"] == "/tenants"


async def test_two_first_sign_ins_at_once_make_one_user(
    world: World, monkeypatch: pytest.MonkeyPatch, hostile: Hostile
) -> None:
    configure(world, monkeypatch, hostile.issuer)
    identity = oidc.Identity(hostile.issuer, "twin", "twin@acme.example", None)

    async def first() -> UUID | None:
        try:
            async with world.database.transaction() as tx:
                return await identities.user_of(tx, identity, utc_now())
        except oidc.OidcError:
            return None

    found = await asyncio.gather(first(), first())
    assert len(set(found) - {None}) == 1
    async with world.database.transaction() as tx:
        assert await people.is_settled(tx, "twin@acme.example") is False
