"""Canaries: secrets that exist once, sent into every input that takes one, and looked for after.

A secret may be in one place only: where it was sealed or hashed. In no log, trace, metric, record,
row or error answer may it stand, neither plainly nor in hexadecimal or base64 (attacks A23, A24).
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from cli import proof
from deploy.local.stack import Stack
from services.tenants.roles import SCOPES
from tests.flows import canaries
from tests.flows.callers import PASSWORD, House, house, unique
from tests.trace_sink import TraceSink

pytestmark = pytest.mark.flow

EXPORT_SECONDS = 6
"""Spans are exported every five seconds."""

SECRET_SETTINGS = (
    "SLUICE_KEY_PEPPER",
    "SLUICE_OPERATOR_KEY",
    "SLUICE_OPERATOR_PASSWORD",
    "STRIPE_SECRET_KEY",
    "STRIPE_WEBHOOK_SECRET",
)


@dataclass
class Aviary:
    """What was planted where, and what the answers said.

    Attributes:
        marker: a name that is no secret.
        refused: an answer of tenants that its log must know.
    """

    home: House
    http: httpx.AsyncClient
    marker: str
    planted: dict[str, str] = field(default_factory=dict)
    refused: httpx.Response = field(init=False)
    answers: list[httpx.Response] = field(default_factory=list)

    def canary(self, place: str, lead: str = "") -> str:
        """A secret that is nowhere else."""
        made = f"{lead}{secrets.token_hex(16)}"
        self.keep(place, made)
        return made

    def keep(self, place: str, secret: str) -> None:
        """Note a secret that Sluice has made; of a prefixed one what makes it secret."""
        assert place not in self.planted
        self.planted[place] = secret

    async def send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """A request as the tenant's owner would send it; what it answers is looked at, too."""
        answer = await self.http.request(method, path, **parts)
        assert answer.status_code < 500, (path, answer.text)
        self.answers.append(answer)
        return answer


@pytest.fixture(scope="module")
async def aviary(stack: Stack) -> AsyncGenerator[Aviary, None]:
    """A tenant with secrets in every place that takes one, after everything has settled."""
    async with (
        house(stack.environment(), "aviary") as home,
        httpx.AsyncClient(base_url=home.origin, timeout=60) as http,
    ):
        made = Aviary(home, http, unique("marker"))
        await plant_keys(made)
        await plant_sessions(made)
        await plant_invitations(made)
        await plant_stripe_keys(made)
        await plant_connect(made)
        await plant_webhooks(made)
        await plant_headers(made)
        await plant_bodies(made)
        await proof.settle(home.environment)
        await asyncio.sleep(EXPORT_SECONDS)
        yield made


def secret_of(key: str) -> str:
    """The part of an API key that is no name: behind the shown prefix."""
    return key.rsplit("_", 1)[1][12:]


async def plant_keys(to: Aviary) -> None:
    """API keys: made, used, rotated, sent where they do not belong."""
    named = {"Idempotency-Key": to.canary("an idempotency key")}
    staff = {"X-API-Key": to.home.environment["SLUICE_OPERATOR_KEY"], **named}
    body = {"tenant": to.home.slug, "name": to.marker, "scopes": list(SCOPES), "mode": "test"}
    made = (await to.http.post("/api/v1/api-keys", json=body, headers=staff)).json()
    again = (await to.http.post("/api/v1/api-keys", json=body, headers=staff)).json()
    assert again["key"] == made["key"], "the same request gets the same key"
    to.keep("an API key", secret_of(made["key"]))
    bearer = {"Authorization": f"Bearer {made['key']}"}
    for path in (
        "/api/v1/invoices",
        "/api/v1/meters",
        "/api/v1/ledger/accounts",
        "/api/v1/payments",
    ):
        assert (await to.send("GET", path, headers=bearer)).status_code == 200
    turned = await to.http.post(f"/api/v1/api-keys/{made['id']}/rotate", json={}, headers=bearer)
    assert turned.status_code == 201, turned.text
    to.keep("a rotated API key", secret_of(turned.json()["key"]))
    for name in ("api_key", "access_token", "token", "key", "password", "authorization"):
        await to.send("GET", "/api/v1/invoices", params={name: made["key"]})
        await to.send("GET", "/login", params={name: made["key"]})
    await to.send("GET", f"/api/v1/invoices/{made['key']}", headers=bearer)
    await to.send("DELETE", f"/api/v1/api-keys/{turned.json()['key']}", headers=bearer)
    await to.send("GET", "/api/v1/invoices", headers={"Authorization": f"Basic {made['key']}"})


async def plant_sessions(to: Aviary) -> None:
    """Passwords right and wrong, cookies, assertions."""
    wrong = to.canary("a wrong password")
    for email in (to.home.environment["SLUICE_OPERATOR_EMAIL"], "nobody@canary.example"):
        await to.send("POST", "/api/v1/session", json={"email": email, "password": wrong})
        await to.send("POST", "/login", data={"email": email, "password": wrong})
    form = {"email": "x", "password": to.canary("a password in a form")}
    await to.send("POST", "/api/v1/session", data=form)
    person = await to.home.person("admin")
    cookie = await person.sign_in()
    to.keep("a session", cookie.cookies["sluice_session"])
    headers = await person.headers()
    to.keep("an assertion", headers["Authorization"].rpartition(".")[2])
    await to.send("GET", "/api/v1/invoices", headers=headers)
    new = to.canary("a new password")
    for old in (to.canary("a wrong old password"), PASSWORD):
        body = {"old_password": old, "new_password": new}
        await to.send("PUT", "/api/v1/session/password", json=body, headers=headers)
    person.password = new
    person.http.cookies.clear()
    await person.sign_in()
    await person.http.delete("/api/v1/session")
    await person.http.aclose()
    foreign = {"Cookie": f"sluice_session={to.canary('a foreign cookie')}"}
    for path in ("/api/v1/invoices", "/tenants"):
        await to.send("GET", path, headers=foreign)
    origin = {"Origin": to.home.origin}
    await to.send("POST", "/api/v1/session/assertion", headers=foreign | origin)


async def plant_invitations(to: Aviary) -> None:
    """Invitations: made, looked at, accepted with a password, invented."""
    staff = {"X-API-Key": to.home.environment["SLUICE_OPERATOR_KEY"], "X-Tenant-ID": to.home.slug}
    staff["Idempotency-Key"] = to.canary("an idempotency key of an invitation")
    body = {"email": f"{unique('invited')}@canary.example"}
    made = await to.http.post("/api/v1/invitations", json=body, headers=staff)
    url = made.json()["url"]
    token = parse_qs(urlsplit(url).query or urlsplit(url).fragment)["token"][0]
    to.keep("an invitation", token)
    await to.http.get(url)
    password = to.canary("a first password")
    invented = {"token": to.canary("an invented invitation"), "password": password}
    await to.send("POST", "/api/v1/invitations/accept", json=invented)
    await to.send("GET", "/invitation", params={"token": invented["token"]})
    accepted = {"token": token, "password": password}
    for status in (201, 404):
        answer = await to.send("POST", "/api/v1/invitations/accept", json=accepted)
        assert answer.status_code == status, answer.text
    to.http.cookies.clear()


async def plant_stripe_keys(to: Aviary) -> None:
    """A tenant's own Stripe keys: bad ones, good ones, in both spellings, and the webhook's."""
    key = (await to.home.make_key(*SCOPES))["key"]
    headers = {"X-API-Key": key}
    async with httpx.AsyncClient(
        base_url=to.home.environment["STRIPE_SIM_URL"], timeout=60
    ) as sandbox:
        account = (await sandbox.post("/_sim/accounts", json={"name": to.marker})).json()
    to.keep("a Stripe key", account["secret_key"])
    webhook_secret = to.canary("a webhook secret", "whsec_")
    bad: list[Mapping[str, Any]] = [
        {"stripe_secret_key": to.canary("a Stripe key that nobody has", "sk_test_")},
        {"stripeSecretKey": to.canary("a live Stripe key in test mode", "sk_live_")},
        {"stripe_secret_key": [to.canary("a Stripe key in a list", "sk_test_")]},
        {"stripe_secret": to.canary("a Stripe key under another name", "rk_test_")},
        {"stripe_publishable_key": to.canary("a secret key as the publishable one", "sk_test_")},
        {"webhook_secret": to.canary("a webhook secret of another form")},
        {"stripe_secret_key": to.canary("a Stripe key too long", "sk_test_") * 20},
    ]
    for body in bad:
        for path in ("/api/v1/billing/config", "/api/billing/config"):
            answer = await to.send("POST", path, json=body, headers=headers)
            assert answer.status_code in (400, 422), (body.keys(), answer.text)
    good = {
        "stripeSecretKey": account["secret_key"],
        "stripePublishableKey": account["publishable_key"],
        "webhookSecret": webhook_secret,
    }
    named = {"Idempotency-Key": to.canary("an idempotency key of a configuration")}
    saved = await to.send("POST", "/api/v1/billing/config", json=good, headers=headers | named)
    assert saved.status_code == 201, saved.text
    shown = await to.send("GET", "/api/v1/billing/config", headers=headers)
    assert shown.status_code == 200, shown.text
    await to.send("PATCH", "/api/v1/billing/config", json={"is_active": False}, headers=headers)
    await to.send("PATCH", "/api/v1/billing/config", json={"is_active": True}, headers=headers)


async def plant_connect(to: Aviary) -> None:
    """What Stripe's and a provider's redirects bring along, in the address."""
    for path in (
        "/api/v1/connect/callback",
        "/api/v1/connect/return",
        "/api/v1/connect/refresh",
        "/api/v1/session/oidc/callback",
        "/login/callback",
    ):
        query = {
            name: to.canary(f"{name} at {path}", lead)
            for name, lead in (("code", "ac_"), ("state", ""), ("id_token", ""))
        }
        await to.send("GET", path, params=query)
        await to.send("GET", path, params={"error": "x", "state": query["state"]})


async def plant_webhooks(to: Aviary) -> None:
    """Signatures, bodies nobody vouches for, and tokens in the address."""
    for path in (
        "/api/webhooks/stripe",
        "/api/v1/billing/webhook",
        f"/api/webhooks/stripe/{to.canary('a webhook token')}",
    ):
        signature = f"t=1,v1={to.canary(f'a signature at {path[:24]}')}"
        body = {"id": "evt_x", "type": "x", "key": to.canary(f"an unsigned body at {path[:24]}")}
        await to.send("POST", path, json=body, headers={"Stripe-Signature": signature})


async def plant_headers(to: Aviary) -> None:
    """Headers that carry secrets, known and unknown, at every kind of path."""
    for path in ("/api/v1/invoices", "/login", "/openapi.json", "/nowhere"):
        for name, lead in {
            "Authorization": "Bearer ",
            "X-API-Key": "",
            "Proxy-Authorization": "Basic ",
            "X-Secret": "",
            "X-Auth-Token": "",
            "Stripe-Account": "",
            "Cookie": "token=",
            "Referer": f"{to.home.origin}/invitation?token=",
            "Baggage": "secret=",
            "Tracestate": "secret=",
            "Idempotency-Key": "",
            "Sluice-Version": "",
            "X-Tenant-ID": "",
        }.items():
            canary = to.canary(f"{name} at {path}")
            await to.send("GET", path, headers={name: lead + canary})
        user = to.canary(f"user and password at {path}")
        await to.send("GET", path, auth=(user, user))


async def plant_bodies(to: Aviary) -> None:
    """Secrets in bodies that are refused: broken, of another type, or not asked for."""
    key = (await to.home.make_key(*SCOPES))["key"]
    for place, (path, body) in enumerate(
        {
            "/api/v1/session": '{"email": "x@example.com", "password": "%s"',
            "/api/v1/billing/config": '{"stripe_secret_key": "sk_test_%s", }',
            "/api/v1/api-keys": '{"name": "x", "secret": "%s", "scopes": ["%s"], "mode": "test"}',
            "/api/v1/credits": '{"amount": "%s"}',
            "/api/v1/invitations/accept": '{"token": {"x": "%s"}}',
            "/api/v1/teams": '{"name": ["%s"]}',
        }.items()
    ):
        text = body.replace("%s", to.canary(f"body {place}"))
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        to.refused = await to.send("POST", path, content=text, headers=headers)
        assert to.refused.status_code in (400, 422), to.refused.text


async def test_no_answer_repeats_a_secret(aviary: Aviary) -> None:
    assert len(aviary.planted) > 80
    # The page of an invitation holds the token that it was asked with: its form sends it on.
    told = [
        (f"{each.status_code} of {each.request.url.path[:40]}", each.content + _headers(each))
        for each in aviary.answers
        if not (each.is_success and each.request.url.path == "/invitation")
    ]
    assert canaries.find(aviary.planted, told) == []


def _headers(answer: httpx.Response) -> bytes:
    return b"\n".join(name + b": " + value for name, value in answer.headers.raw)


async def test_no_log_holds_a_secret(stack: Stack, aviary: Aviary) -> None:
    pieces = list(canaries.logs(stack))
    request_id = aviary.refused.json()["request_id"]
    # A log that has grown too long goes on under the same name; what was before is kept beside it.
    found = canaries.find({"it": request_id}, pieces)
    assert {place.removesuffix(".1") for place in found} == {"it in the log tenants.log"}
    assert canaries.find(aviary.planted, pieces) == []


async def test_no_trace_holds_a_secret(traces: TraceSink, aviary: Aviary) -> None:
    pieces = list(canaries.traces(traces.path))
    assert all(name in pieces[0][1] for name in (b"sluice-tenants", b"sluice-stripe_sync"))
    assert canaries.find(aviary.planted, pieces) == []


async def test_no_metric_holds_a_secret(aviary: Aviary) -> None:
    pieces = [piece async for piece in canaries.metrics(aviary.home.environment)]
    assert len(pieces) >= 8
    assert canaries.find(aviary.planted, pieces) == []


async def test_no_record_holds_a_secret(aviary: Aviary) -> None:
    pieces = [piece async for piece in canaries.records(aviary.home.environment)]
    found = canaries.find({"it": aviary.home.slug}, pieces)
    assert {"it in the topic tenants.directory", "it in the topic tenants.events"} <= set(found)
    assert canaries.find(aviary.planted, pieces) == []


async def test_a_dump_without_the_master_key_reveals_no_secret(aviary: Aviary) -> None:
    pieces = [piece async for piece in canaries.dump(aviary.home.environment)]
    found = canaries.find({"it": aviary.home.slug}, pieces)
    assert {"it in the table tenants.tenant", "it in the table billing.directory"} <= set(found)
    assert canaries.find(aviary.planted, pieces) == []


async def test_the_stacks_own_secrets_stand_in_its_environment_only(
    stack: Stack, traces: TraceSink, aviary: Aviary
) -> None:
    environment = stack.environment()
    wanted = {name: environment[name] for name in SECRET_SETTINGS}
    for line in stack.folders.master_keys.read_text().splitlines():
        if not line.startswith("#"):
            wanted[f"the master key {line.partition(':')[0]}"] = line.partition(":")[2]
    for name, value in environment.items():
        if name.endswith("_POSTGRES"):
            wanted[name] = urlsplit(value).password or ""
    assert all(len(value) >= 12 for value in wanted.values())
    pieces = [*canaries.logs(stack), *canaries.traces(traces.path)]
    pieces += [piece async for piece in canaries.records(aviary.home.environment)]
    pieces += [piece async for piece in canaries.dump(aviary.home.environment)]
    assert canaries.find(wanted, pieces) == []


@pytest.mark.parametrize("shift", range(4))
def test_a_secret_is_found_however_it_is_written(shift: int) -> None:
    secret, around = secrets.token_hex(16), b"x" * shift
    for written in (
        secret.encode(),
        secret.encode().hex().encode(),
        canaries.base64.b64encode(around + secret.encode() + b"and more"),
        canaries.base64.urlsafe_b64encode(around + secret.encode() + b"?"),
    ):
        assert canaries.find({"it": secret}, [("here", b"before " + written)]) == ["it in here"]
