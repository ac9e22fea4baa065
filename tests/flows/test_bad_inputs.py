"""Hostile requests at every operation: refused as problem+json that says why, and nothing breaks.

What is sent is drawn from the generated document with the seed that every run prints. The caller is
a tenant of its own that may do everything a tenant may, or the platform's staff.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from cli import proof
from cli.api import Api
from deploy.local.stack import Stack
from libs.web.auth import ANYONE_SIGNED_IN, OPERATOR
from tests.conftest import story_seed
from tests.flows.operations import (
    HOSTILE_TEXTS,
    LONG,
    Operation,
    hostile_queries,
    read_operations,
    sample,
    spoil,
)
from tests.flows.test_isolation import SCOPES
from tests.known_everywhere import known_everywhere
from tests.nothing_waits import everything_is_ready, nothing_waits

pytestmark = pytest.mark.flow

OPERATIONS = read_operations()
WITH_BODY = [each for each in OPERATIONS if each.takes_body]
ONE_OF_EACH = list({(each.service, each.method): each for each in OPERATIONS}.values())
"""An operation per service and method: headers are read before any route."""
WITH_SCHEMA = [each for each in WITH_BODY if each.body is not None]
SPOILED_BODIES = 20
AT_ONCE = 8
JSON = "application/json"
CHUNK_BYTES = 64 * 1024
NEVER_SHOWN = ("Traceback", 'File "', "asyncpg", "pydantic", "psycopg", "site-packages", "select ")


@dataclass(frozen=True)
class Attacker:
    """Who sends it: a client, headers by permission, and what no answer may hold."""

    http: httpx.AsyncClient
    tenant_id: str
    tenant_headers: Mapping[str, str]
    operator_headers: Mapping[str, str]
    secrets: frozenset[str]

    def headers(self, operation: Operation) -> dict[str, str]:
        """The credentials with which the operation goes on to read what was sent."""
        if operation.permission is None:
            return {}
        # A tenant's key makes no tenants; the staff names nobody where the path does.
        needs_staff = operation.permission in (OPERATOR, ANYONE_SIGNED_IN)
        return dict(self.operator_headers if needs_staff else self.tenant_headers)

    def fault(self, answer: httpx.Response) -> str | None:
        """What is wrong with an answer to something hostile."""
        said = answer.text
        shown = [each for each in (*self.secrets, *NEVER_SHOWN) if each in said]
        if shown:
            return f"{answer.status_code} shows {shown[0][:12]}"
        if answer.is_success:
            return None
        if not 400 <= answer.status_code < 500:
            return f"{answer.status_code}: {said[:200]}"
        if answer.headers.get("content-type") != "application/problem+json":
            return f"{answer.status_code} is {answer.headers.get('content-type')}: {said[:80]}"
        problem = answer.json()
        told = problem.get("code") and problem.get("detail")
        if not told or problem.get("status") != answer.status_code:
            return f"{answer.status_code} says nothing: {said[:200]}"
        return None


@pytest.fixture(scope="module")
async def attacker(stack: Stack) -> AsyncGenerator[Attacker, None]:
    """A tenant of its own, so that nobody else's figures move."""
    environment = stack.environment()
    origin, operator_key = environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"]
    operator = Api(origin, operator_key)
    tenant = await operator.post("/api/v1/tenants", {"name": "Mallory"})
    body = {"tenant": tenant["id"], "name": "attack", "scopes": SCOPES, "mode": "test"}
    key = (await operator.post("/api/v1/api-keys", body))["key"]
    await known_everywhere(environment, operator)
    await operator.close()
    secret = ("KEY", "SECRET", "PASSWORD", "PEPPER", "POSTGRES")
    http = httpx.AsyncClient(base_url=origin, timeout=60)
    yield Attacker(
        http,
        tenant["id"],
        tenant_headers={"Authorization": f"Bearer {key}"},
        operator_headers={"Authorization": f"Bearer {operator_key}", "X-Tenant-ID": tenant["id"]},
        secrets=frozenset(
            value
            for name, value in environment.items()
            if len(value) > 8 and any(word in name for word in secret) and "PORT" not in name
        ),
    )
    await http.aclose()


async def faults(attacker: Attacker, requests: Iterable[tuple[str, httpx.Request]]) -> list[str]:
    """What is wrong with the answers, each with what was sent."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def send(what: str, request: httpx.Request) -> str | None:
        async with gate:
            try:
                answer = await attacker.http.send(request)
            except httpx.TransportError as error:
                return f"{what}: {type(error).__name__} {error}"
        fault = attacker.fault(answer)
        return f"{what}: {fault}" if fault else None

    found = await asyncio.gather(*[send(what, request) for what, request in requests])
    return [each for each in found if each]


def absent(operation: Operation) -> str:
    """The operation's path with objects that are not there, and the caller's own tenant."""
    return operation.at(dict.fromkeys(operation.path_names, "00000000-0000-0000-0000-000000000000"))


MALFORMED: Mapping[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"name": ',
    "null": b"null",
    "a text": b'"x"',
    "a list": b"[]",
    "a number": b"1e400",
    "no number": b'{"amount": NaN}',
    "two objects": b"{}{}",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a character": b'{"name": "\\ud800"}',
    "a NUL": b'{"name": "\\u0000", "email": "\\u0000@x", "id": "\\u0000"}',
    "a bare NUL": b'{"name": "\x00"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b'{"name":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a long number": b'{"amount": ' + b"9" * 5_000 + b"}",
    "a member twice": b'{"name": "a", "name": 1}',
    "ten thousand members": json.dumps({f"m{index}": 1 for index in range(10_000)}).encode(),
}
CONTENT_TYPES = (
    "text/plain",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "x",
    "",
)


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
async def test_bodies_that_are_none(attacker: Attacker, operation: Operation) -> None:
    cases = [(what, content, {"Content-Type": JSON}) for what, content in MALFORMED.items()]
    cases += [(kind, b'{"name": "x"}', {"Content-Type": kind}) for kind in CONTENT_TYPES]
    packed = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    cases.append(("said to be packed", b"\x1f\x8b\x08\x00x", packed))
    own = attacker.headers(operation)
    built = [
        (
            what,
            attacker.http.build_request(
                operation.method, absent(operation), content=content, headers=own | headers
            ),
        )
        for what, content, headers in cases
    ]
    assert await faults(attacker, built) == []


def body_bytes_max(operation: Operation) -> int:
    """The largest body that is read."""
    if operation.path.startswith(("/api/v1/events", "/api/v1/usage/backfills")):
        return 4 * 1024 * 1024
    return 512 * 1024 if operation.service == "gateway" else 1024 * 1024


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
async def test_a_body_beyond_its_limit_is_refused(attacker: Attacker, operation: Operation) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(body_bytes_max(operation) // CHUNK_BYTES):
            yield b" " * CHUNK_BYTES
        yield b" "

    headers = attacker.headers(operation) | {"Content-Type": "application/json"}
    answer = await attacker.http.request(
        operation.method, absent(operation), content=chunks(), headers=headers
    )
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


async def test_a_body_that_says_its_length_gets_its_answer_through_the_proxy(
    attacker: Attacker,
) -> None:
    operation = next(each for each in WITH_BODY if body_bytes_max(each) == 1024 * 1024)
    headers = attacker.headers(operation) | {"Content-Type": "application/json"}
    for size in [1024 * 1024 + 1] * 10 + [5 * 1024 * 1024] * 3:
        answer = await attacker.http.request(
            operation.method, absent(operation), content=b" " * size, headers=headers
        )
        assert answer.status_code == 413


@pytest.mark.parametrize("operation", WITH_SCHEMA, ids=str)
async def test_bodies_with_something_wrong_in_them(
    attacker: Attacker, operation: Operation
) -> None:
    assert operation.body is not None
    seed = story_seed()
    rng = random.Random(f"{seed} {operation.id}")
    built = []
    for _ in range(SPOILED_BODIES):
        body = spoil(sample(operation.body, rng), rng)
        content = json.dumps(body).encode()
        headers = attacker.headers(operation) | {"Content-Type": "application/json"}
        request = attacker.http.build_request(
            operation.method, absent(operation), content=content, headers=headers
        )
        built.append((content.decode()[:400], request))
    assert await faults(attacker, built) == [], f"seed {seed}"


@pytest.mark.parametrize(
    "at",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ],
)
async def test_times_that_nothing_here_can_hold(attacker: Attacker, at: str) -> None:
    amount = {"amount_minor": 1, "currency": "EUR"}
    bodies = {
        "grant_credit": {"amount": amount, "expires_at": at},
        "create_api_key": {"name": "x", "scopes": ["usage:read"], "mode": "test", "expires_at": at},
        "replay_webhook_events": {"received_from": at},
        "advance_clock": {"advance_to": at},
    }
    for operation in WITH_BODY:
        if operation.id not in bodies:
            continue
        answer = await attacker.http.request(
            operation.method,
            operation.at({"tenant": attacker.tenant_id}),
            headers=dict(attacker.operator_headers),
            json=bodies.pop(operation.id),
        )
        assert answer.status_code == 422, (operation.id, answer.text)
        assert answer.json()["fields"], operation.id
    assert not bodies


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.queries], ids=str)
async def test_queries_that_make_no_sense(attacker: Attacker, operation: Operation) -> None:
    headers = attacker.headers(operation)
    built = []
    for name, schema in operation.queries.items():
        values = hostile_queries(schema, name)
        texts = [f"{name}={quote(value, safe='')}" for value in values]
        texts += [f"{name}=%ff%fe", f"{name}", f"{name}=1&{name}=2", f"{name}[]=1", f"{name}[a]=1"]
        for text in texts:
            address = f"{absent(operation)}?{text}"
            request = attacker.http.build_request(operation.method, address, headers=headers)
            built.append((text[:200], request))
    assert await faults(attacker, built) == []


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.path_names], ids=str)
async def test_paths_that_make_no_sense(attacker: Attacker, operation: Operation) -> None:
    headers = attacker.headers(operation)
    built = []
    for name in operation.path_names:
        for text in (*HOSTILE_TEXTS, "-1", "1e400", "0" * 36, "é", "%"):
            values = dict.fromkeys(operation.path_names, "x") | {name: quote(text, safe="") or "."}
            request = attacker.http.build_request(
                operation.method,
                operation.at(values),
                headers=headers,
                json={} if operation.takes_body else None,
            )
            built.append((f"{name}={text[:100]!r}", request))
    assert await faults(attacker, built) == []


HEADERS: tuple[tuple[str, str], ...] = (
    ("Idempotency-Key", ""),
    ("Idempotency-Key", "x" * 300),
    ("Idempotency-Key", "é\u00a0"),
    ("Idempotency-Key", "' OR 1=1; --"),
    ("Sluice-Version", "x"),
    ("Sluice-Version", "x:y"),
    ("Sluice-Version", "00000000-0000-0000-0000-000000000000:0x1"),
    ("X-Tenant-ID", "' OR 1=1; --"),
    ("X-Tenant-ID", "é"),
    ("X-Tenant-ID", "x" * 5_000),
    ("X-Tenant-ID", "00000000-0000-0000-0000-000000000000"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("Accept", "application/xml"),
    ("X-Forwarded-For", "' OR 1=1; --"),
    ("Forwarded", 'for="[::1]";host=evil.example'),
    ("traceparent", "00-zz-zz-zz"),
    ("X-Request-ID", "x" * 4_000),
    ("Cookie", "session=" + "x" * 5_000),
    ("Range", "bytes=0-0"),
    ("If-Match", "*" * 1_000),
    ("Stripe-Signature", "t=9,v1=" + "0" * 64),
    ("Stripe-Signature", "t=" + "9" * 400),
)


@pytest.mark.parametrize("operation", ONE_OF_EACH, ids=str)
async def test_headers_that_make_no_sense(attacker: Attacker, operation: Operation) -> None:
    own = attacker.headers(operation)
    built = []
    for name, value in HEADERS:
        headers = {key.encode(): text.encode() for key, text in (own | {name: value}).items()}
        content = b"{}" if operation.takes_body else None
        request = attacker.http.build_request(
            operation.method, absent(operation), headers=headers, content=content
        )
        built.append((f"{name}: {value[:80]!r}", request))
    assert await faults(attacker, built) == []


async def test_a_version_that_never_comes_is_not_waited_for_long(attacker: Attacker) -> None:
    readers = {each.service: each for each in OPERATIONS if each.method == "GET"}
    nobody = "00000000-0000-0000-0000-000000000000"
    requests = [
        attacker.http.build_request(
            "GET",
            absent(operation),
            headers=attacker.headers(operation) | {"Sluice-Version": f"{nobody}:{version}"},
        )
        for operation in readers.values()
        for version in ("1", "9" * 400)
    ]
    answers = await asyncio.gather(*[attacker.http.send(request) for request in requests])
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0


async def test_the_head_is_limited(attacker: Attacker) -> None:
    headers = dict(attacker.tenant_headers)
    get = attacker.http.build_request
    built = [
        ("a long address", get("GET", f"/api/v1/invoices?x={LONG}", headers=headers)),
        ("a long path", get("GET", f"/api/v1/invoices/{'x' * 3_000}", headers=headers)),
        ("a long header", get("GET", "/api/v1/invoices", headers=headers | {"X": "x" * 20_000})),
        (
            "many headers",
            get("GET", "/api/v1/invoices", headers=headers | {f"X-{n}": "x" for n in range(150)}),
        ),
    ]
    for what, request in built:
        answer = await attacker.http.send(request)
        assert answer.status_code in (400, 431), what
    assert await faults(attacker, built) == []


def is_there(method: str, path: str) -> bool:
    """Whether an operation takes it: `GET …/events/replay` reads the event of that id."""
    return any(
        each.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each.path), path)
        for each in OPERATIONS
    )


async def test_methods_that_are_not_there(attacker: Attacker) -> None:
    built = [
        (
            f"{method} {operation.path}",
            attacker.http.build_request(
                method, absent(operation), headers=attacker.headers(operation)
            ),
        )
        for operation in OPERATIONS
        for method in ("PUT", "PATCH", "DELETE", "POST", "GET", "PROPFIND", "X")
        if not is_there(method, operation.path)
    ]
    for what, request in built:
        answer = await attacker.http.send(request)
        assert answer.status_code == 405, what
        assert answer.json()["code"] == "method_not_allowed", what


HOSTILE_EVENTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"id": ""}, "invalid_id"),
    ({"id": None}, "missing_id"),
    ({"id": 1}, "invalid_id"),
    ({"id": LONG}, "invalid_id"),
    ({"id": "x\x00"}, "invalid_text"),
    ({"source": None}, "missing_source"),
    ({"type": ""}, "invalid_type"),
    ({"specversion": "0.3"}, "unknown_specversion"),
    ({"subject": LONG}, "invalid_subject"),
    ({"userid": "\ud800"}, "invalid_userid"),
    ({"time": "yesterday"}, "invalid_time"),
    ({"time": 1}, "invalid_time"),
    ({"time": "2026-01-01T00:00:00"}, "invalid_time"),
    ({"mode": "live"}, "wrong_mode"),
    ({"data": []}, "invalid_data"),
    ({"data": {"x": "\ud800"}}, "invalid_text"),
    ({"data_base64": "AA=="}, "data_not_json"),
    ({"datacontenttype": "text/plain"}, "data_not_json"),
    ({"UPPER": "x"}, "invalid_attribute"),
    ({"deep": {"a": 1}}, "invalid_attribute"),
    ({"tenantid": "00000000-0000-0000-0000-000000000000"}, "wrong_tenant"),
    ({"tenantid": "' OR 1=1"}, "wrong_tenant"),
    ({"data": {"x": "x" * 70_000}}, "event_too_large"),
)


async def test_each_bad_event_is_refused_by_itself(attacker: Attacker) -> None:
    good = {"specversion": "1.0", "source": "attack", "type": "attack", "data": {"n": 1}}
    sent = [{**good, "id": f"bad-{index}", **bad} for index, (bad, _) in enumerate(HOSTILE_EVENTS)]
    sent += [1, None, [], "x", {**good, "id": "good"}]  # type: ignore[list-item]
    answer = await attacker.http.post(
        "/api/v1/events",
        content=json.dumps(sent).encode(),
        headers=dict(attacker.tenant_headers) | {"Content-Type": "application/json"},
    )
    assert answer.status_code == 202
    results = answer.json()["results"]
    told = [each["code"] for each in results[: len(HOSTILE_EVENTS)]]
    assert told == [code for _, code in HOSTILE_EVENTS]
    assert [each["code"] for each in results[len(HOSTILE_EVENTS) : -1]] == ["not_an_object"] * 4
    assert results[-1]["status"] == "accepted"


async def test_afterwards_everything_is_ready_and_nothing_is_put_aside(
    stack: Stack, attacker: Attacker
) -> None:
    # Given what the other tests of this module have sent, and a few of the worst once more,
    operations = {each.id: each for each in WITH_BODY}
    headers = dict(attacker.operator_headers) | {"Content-Type": "application/json"}
    built = [
        (
            name,
            attacker.http.build_request("POST", operations[name].path, content=c, headers=headers),
        )
        for name in ("publish_events", "create_meter", "grant_credit", "publish_plan")
        for c in MALFORMED.values()
    ]
    assert await faults(attacker, built) == []
    # when all that follows from it has happened,
    await proof.settle(stack.environment())
    # then nothing waits for anybody.
    await nothing_waits(stack)
    await everything_is_ready(stack)
