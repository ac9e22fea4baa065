"""The attacks that Sluice must stand, by number, and where each is tried.

| # | attack | tried in |
|---|---|---|
| A1 | another tenant's object ids everywhere | test_isolation.py, test_matrix.py |
| A2 | a function beyond one's role | test_matrix.py, architecture/test_permissions.py |
| A3 | fields one may not set | here, test_bad_inputs.py |
| A4 | records of another tenant or service on a topic | test_hostile_records.py; who may write where is the compose profile's |
| A5 | no tenant set | libs/db/test_sql_attacks.py, and here on every table with data in it |
| A6 | a role that owns, or passes by, the policies | libs/db/test_sql_attacks.py, architecture/test_catalog.py |
| A7 | views, functions, materialized views | architecture/test_catalog.py |
| A8 | a partition read directly | here, architecture/catalog.py |
| A9, A10 | foreign and unique keys as oracles | libs/db/test_sql_attacks.py, architecture/test_catalog.py |
| A11 | SQL injection | architecture/test_sql_text.py; what it could gain: libs/db/test_sql_attacks.py |
| A12 | a pooled connection that keeps a tenant | libs/db/test_pooled_tenants.py |
| A13, A14 | truncate, copy, files, planner and errors | libs/db/test_sql_attacks.py |
| A15 | another service's schema | architecture/test_catalog.py |
| A16 | keys: guessed, revoked, expired, weak, in the address | here, test_isolation.py, services/tenants/test_keys.py |
| A17 | sessions: fixed, stolen, forged, reused | here, services/tenants/test_sessions.py |
| A18 | OpenID Connect and Connect | services/tenants |
| A19 | invitations, the last owner, one's own role | services/tenants |
| A20 | portal and payment links | Stripe's hosted pages only: Sluice has none of its own |
| A21 | addresses that Sluice would fetch | here: it fetches none that a tenant gives |
| A22 | time and answers that tell who exists | services/tenants/test_timing.py, services/gateway/test_webhooks.py |
| A23, A24 | leaks into logs, traces, topics, dumps | test_canaries.py, services/tenants/test_sealed_rows.py |
| A25 | a forged X-Forwarded-For | here, libs/web/test_forwarded.py |
"""

import asyncio
import base64
import secrets
import string
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from cli import proof
from cli.api import eventually
from cli.story import Story
from deploy.local.stack import Stack
from libs.db.tenant import SET_SCOPE, Scope
from libs.deploy import services_with_schema
from libs.ids import new_id, parse_uuid
from libs.web.auth import OPERATOR, VOIDED
from services.tenants.roles import SCOPES
from tests.flows.callers import House, Person, house
from tests.flows.operations import Operation, read_operations

pytestmark = pytest.mark.flow

OPERATIONS = read_operations()
SECURED = [each for each in OPERATIONS if each.permission is not None]
READING = list(
    {
        each.service: each
        for each in SECURED
        if each.id.startswith("list_") and each.permission != OPERATOR and not each.path_names
    }.values()
)
"""An operation of each service that a tenant may ask for without naming anything."""


@pytest.fixture(scope="module")
async def home(stack: Stack) -> AsyncGenerator[House, None]:
    async with house(stack.environment(), "attacked") as made:
        yield made


@pytest.fixture(scope="module")
async def http(home: House) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(base_url=home.origin, timeout=60) as client:
        yield client


# A3


def _open_objects(schema: Any, path: str = "") -> Iterator[str]:
    """Where a body takes members that nobody described."""
    if isinstance(schema, list):
        for each in schema:
            yield from _open_objects(each, path)
    if not isinstance(schema, dict):
        return
    if "properties" in schema and schema.get("additionalProperties") is not False:
        yield path or "the body"
    for name, each in schema.get("properties", {}).items():
        yield from _open_objects(each, f"{path}.{name}".strip("."))
    for name in ("anyOf", "oneOf", "allOf", "items"):
        yield from _open_objects(schema.get(name), path)


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.body], ids=str)
def test_a3_no_body_takes_members_that_are_not_described(operation: Operation) -> None:
    # A CloudEvent has extensions: the ones with a meaning are checked, the rest is left out.
    assert operation.id == "publish_events" or list(_open_objects(operation.body)) == []


READ_ONLY: Mapping[str, Mapping[str, Any]] = {
    "create_tenant": {"name": "Mallory"},
    "create_api_key": {"name": "x", "scopes": ["usage:read"], "mode": "test"},
    "grant_credit": {"amount": {"amount_minor": 1, "currency": "EUR"}},
    "create_meter": {"key": "mallory", "event_type": "mallory", "aggregation": "count"},
}


@pytest.mark.parametrize("name", READ_ONLY)
async def test_a3_what_sluice_decides_cannot_be_sent(
    home: House, http: httpx.AsyncClient, name: str
) -> None:
    operation = next(each for each in OPERATIONS if each.id == name)
    headers = {
        "Authorization": f"Bearer {home.environment['SLUICE_OPERATOR_KEY']}",
        "X-Tenant-ID": home.tenant_id,
    }
    for member, value in {
        "id": str(new_id()),
        "operator": True,
        "role": "owner",
        "status": "active",
        "balance": 10**6,
        "created_by": "usr_x",
        "version": 9,
        "plan_key": "pro",
    }.items():
        body = {**READ_ONLY[name], member: value}
        answer = await http.post(operation.path, headers=headers, json=body)
        assert answer.status_code == 422, (member, answer.text)
        assert f"body.{member}" in {each["field"] for each in answer.json()["fields"]}


# A5, A8


async def test_a5_a8_no_table_or_partition_shows_a_row_without_its_tenant(
    played_story: Story,
) -> None:
    """Every relation with a tenant_id, on a stack that a story has filled, as each service's role."""
    environment, acme = played_story.environment, parse_uuid(played_story.tenant_id)
    admin = await proof.connect(environment)
    filled, shown = set(), []
    try:
        for schema in services_with_schema():
            service = await asyncpg.connect(environment[f"SLUICE_{schema.upper()}_POSTGRES"])
            try:
                for (table,) in await admin.fetch(
                    "select c.oid::regclass::text from pg_class c join pg_attribute a "
                    "on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped "
                    "where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p') order by 1",
                    schema,
                ):
                    sql = f"select count(*) from {table}"
                    if await admin.fetchval(f"{sql} where tenant_id = $1", acme):
                        filled.add(table)
                    for scope in (Scope(), Scope((new_id(),), "test"), Scope((), "test")):
                        for books in ((), ("platform", "tenant")):
                            settings = Scope(scope.tenants, scope.mode, books).settings()
                            seen = await _count(service, sql, settings)
                            if seen:
                                shown.append(f"{table} shows {seen} rows to {scope}")
            finally:
                await service.close()
    finally:
        await admin.close()
    assert shown == []
    assert len(filled) > 40, sorted(filled)
    assert any(table[-1].isdigit() for table in filled), "a partition with data in it"


async def _count(service: Any, sql: str, settings: tuple[str, str, str]) -> int:
    """Rows seen with these settings; none where the role may not read the relation at all."""
    async with service.transaction():
        await service.execute(SET_SCOPE, *settings)
        try:
            async with service.transaction():
                seen: int = await service.fetchval(sql)
                return seen
        except asyncpg.InsufficientPrivilegeError:
            return 0


# A16


def guesses(key: str) -> Iterator[str]:
    """Keys that are nearly this one: each part altered, cut, doubled or in another place."""
    for place in range(len(key)):
        other = next(c for c in string.ascii_letters if c != key[place])
        yield key[:place] + other + key[place + 1 :]
    yield from (key[:-1], key + key[-1], key * 2, key.upper(), key.swapcase(), key[::-1])
    yield key.replace("_test_", "_live_")


async def test_a16_a_key_that_is_nearly_one_opens_nothing(
    home: House, http: httpx.AsyncClient
) -> None:
    key = (await home.make_key("billing:read"))["key"]
    path = "/api/v1/plans"
    assert (await http.get(path, headers={"X-API-Key": key})).status_code == 200
    for guess in guesses(key):
        answer = await http.get(path, headers={"Authorization": f"Bearer {guess}"})
        assert answer.status_code == 401, guess


def _places(key: str) -> dict[str, dict[str, Any]]:
    basic = base64.b64encode(f"{key}:".encode()).decode()
    return {
        "a query api_key": {"params": {"api_key": key}},
        "a query access_token": {"params": {"access_token": key}},
        "a query key": {"params": {"key": key}},
        "a query authorization": {"params": {"authorization": f"Bearer {key}"}},
        "basic": {"headers": {"Authorization": f"Basic {basic}"}},
        "a cookie": {"headers": {"Cookie": f"sluice_session={key}; api_key={key}"}},
        "no scheme": {"headers": {"Authorization": key}},
        "a form": {"content": f"api_key={key}", "headers": {"Content-Type": "text/plain"}},
        "proxy": {"headers": {"Proxy-Authorization": f"Bearer {key}"}},
    }


@pytest.mark.parametrize("place", _places("x"))
async def test_a16_a_key_counts_in_its_header_only(
    home: House, http: httpx.AsyncClient, place: str
) -> None:
    key = (await home.make_key(*SCOPES))["key"]
    for operation in READING:
        answer = await http.request("GET", operation.path, **_places(key)[place])
        assert answer.status_code == 401, operation


# A17


@pytest.fixture
async def ada(home: House) -> AsyncGenerator[Person, None]:
    """A member who is signed in."""
    person = await home.person("admin")
    await person.sign_in()
    yield person
    await person.http.aclose()


def cookie_of(person: Person) -> str:
    (cookie,) = list(person.http.cookies.jar)
    assert cookie.value is not None
    return cookie.value


async def with_cookie(http: httpx.AsyncClient, value: str, **headers: str) -> httpx.Response:
    sent = {"Cookie": f"sluice_session={value}", **headers}
    return await http.post("/api/v1/session/assertion", headers=sent)


async def test_a17_a_session_begun_by_somebody_else_is_not_continued(
    home: House, http: httpx.AsyncClient
) -> None:
    # Given a cookie that an attacker has planted in Ada's browser,
    planted = secrets.token_urlsafe(32)
    person = await home.person("member")
    person.http.cookies.set("sluice_session", planted, path="/")
    # when she signs in,
    body = {"email": person.email, "password": person.password}
    answer = await person.http.post("/api/v1/session", json=body)
    # then her session is another, and the planted one opens nothing.
    assert answer.status_code == 201
    assert f"sluice_session={planted}" not in answer.headers["set-cookie"]
    assert (await with_cookie(http, planted, Origin=home.origin)).status_code == 401
    await person.http.aclose()


async def test_a17_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    home: House,
) -> None:
    person = await home.person("member")
    flags = (await person.sign_in()).headers["set-cookie"].lower().split("; ")
    assert {"httponly", "path=/", "samesite=lax"} <= set(flags)
    assert not any(flag.startswith("domain=") for flag in flags)
    await person.http.aclose()


FOREIGN = (
    None,
    "",
    "null",
    "https://evil.example",
    "{origin}.evil.example",
    "{origin}0",
    "https://{host}",
    "{origin}/",
    "{origin} https://evil.example",
)


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a17_a_page_of_another_site_gets_nothing_out_of_the_cookie(
    home: House, http: httpx.AsyncClient, ada: Person, origin: str | None
) -> None:
    host = home.origin.partition("//")[2]
    headers = {} if origin is None else {"Origin": origin.format(origin=home.origin, host=host)}
    made = await with_cookie(http, cookie_of(ada), **headers)
    assert (made.status_code, made.json()["code"]) == (403, "origin_refused")
    sent = {"Cookie": f"sluice_session={cookie_of(ada)}", **headers}
    ended = await http.delete("/api/v1/session", headers=sent)
    assert (ended.status_code, ended.json()["code"]) == (403, "origin_refused")
    # And no answer lets a page of another site read it, or send more than a form could.
    for answer in (made, ended):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert (await with_cookie(http, cookie_of(ada), Origin=home.origin)).status_code == 200


async def test_a17_the_cookie_opens_no_service(
    home: House, http: httpx.AsyncClient, ada: Person
) -> None:
    for operation in SECURED:
        path = operation.at(dict.fromkeys(operation.path_names, home.slug))
        sent = {"Cookie": f"sluice_session={cookie_of(ada)}", "Origin": home.origin}
        answer = await http.request(operation.method, path, headers=sent)
        assert answer.status_code == 401, operation


async def test_a17_after_signing_out_neither_cookie_nor_assertion_opens_anything(
    home: House, http: httpx.AsyncClient, ada: Person
) -> None:
    cookie, headers = cookie_of(ada), await ada.headers()
    for operation in READING:
        assert (await http.get(operation.path, headers=headers)).status_code == 200, operation
    assert (await ada.http.delete("/api/v1/session")).status_code == 204
    assert (await with_cookie(http, cookie, Origin=home.origin)).status_code == 401

    # Void because of that, and not only when its own life is over.
    async def void_everywhere() -> bool:
        answers = [await http.get(each.path, headers=headers) for each in READING]
        return all(each.status_code == 401 and each.json()["detail"] == VOIDED for each in answers)

    await eventually("the end of the assertion in every service", void_everywhere, seconds=5)


async def test_a17_an_assertion_of_one_tenant_names_no_other(
    http: httpx.AsyncClient, ada: Person, played_story: Story
) -> None:
    headers = await ada.headers() | {"X-Tenant-ID": played_story.tenant_id}
    for operation in READING:
        answer = await http.get(operation.path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "tenant_forbidden")
    body = {"tenant": played_story.tenant_id}
    answer = await ada.http.post("/api/v1/session/assertion", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_forbidden")


# A21


@dataclass
class Listener:
    """An address inside, which nobody but the test has a reason to call."""

    port: int
    calls: int = 0


@pytest.fixture
async def listener() -> AsyncGenerator[Listener, None]:
    found = Listener(0)

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.calls += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


def _addresses(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Members of a body that hold an address."""
    if not isinstance(schema, dict):
        return
    for name, each in schema.get("properties", {}).items():
        if any(word in name for word in ("url", "uri", "endpoint", "logo", "webhook_address")):
            yield (*path, name)
        yield from _addresses(each, (*path, name))


async def test_a21_sluice_calls_no_address_that_a_tenant_gives(
    played_story: Story, home: House, http: httpx.AsyncClient, listener: Listener
) -> None:
    key = (await home.make_key(*SCOPES))["key"]
    inside = f"http://127.0.0.1:{listener.port}/latest/meta-data"
    tried = 0
    for operation in OPERATIONS:
        for path in _addresses(operation.body or {}):
            assert len(path) == 1, f"{operation}: say how to fill {path}"
            body: dict[str, Any] = {path[0]: inside, "tenant_id": home.tenant_id}
            if operation.id == "start_checkout":
                body["plan"] = played_story.named("pro")
            answer = await http.request(
                operation.method, operation.path, json=body, headers={"X-API-Key": key}
            )
            assert answer.status_code < 500, answer.text
            tried += 1
    assert tried >= 3
    assert listener.calls == 0


# A25


async def test_a25_where_a_request_came_from_cannot_be_invented(
    home: House, http: httpx.AsyncClient
) -> None:
    made = await home.make_key("usage:write")
    for told in ("198.51.100.7", "198.51.100.7, 127.0.0.1", "::1, 198.51.100.7", "localhost"):
        headers = {
            "Authorization": f"Bearer {made['key']}",
            "X-Forwarded-For": told,
            "X-Real-IP": "198.51.100.7",
            "Forwarded": "for=198.51.100.7",
            "True-Client-IP": "198.51.100.7",
        }
        assert (await http.get("/api/v1/invoices", headers=headers)).status_code == 403

    async def entries() -> list[Any] | None:
        query = {"actor": made["id"], "action": "permission_denied"}
        page = await http.get("/api/v1/audit-log", headers=staff, params=query)
        return page.json()["items"] if len(page.json()["items"]) == 4 else None

    staff = {"X-API-Key": home.environment["SLUICE_OPERATOR_KEY"], "X-Tenant-ID": home.tenant_id}

    found = await eventually("the four refusals in the log", entries)
    assert {entry["data"]["remote_address"] for entry in found} == {"127.0.0.1"}
