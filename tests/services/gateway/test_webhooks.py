"""Webhooks: what is signed is kept once and published under the right tenant; the rest is refused."""

import asyncio
import gzip
import json
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from libs.clock import utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from libs.testing.memory_log import MemoryLog
from services.gateway.app import build
from services.gateway.signature import sign
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    GLOBEX,
    PREVIOUS,
    URL,
    Gateway,
    about,
    snapshot_event,
)

HOSTILE = {
    "4_platform_secret_on_a_connected_event": ({"account": "acct_1"}, 200, "quarantined"),
    "22_livemode_mismatch": ({"livemode": True}, 200, "quarantined"),
    "22_unknown_type": ({"type": "galaxy.collapsed"}, 200, "stored"),
    "22_unknown_api_version": ({"api_version": "2099-01-01.zinnia"}, 200, "stored"),
    "22_no_api_version": ({"api_version": None}, 200, "stored"),
}


async def test_a_webhook_is_stored_byte_for_byte_and_published_once(gateway: Gateway) -> None:
    event = snapshot_event()
    first = await gateway.send(event)
    again = await gateway.send(event, at=5)
    assert (first.status_code, first.json()) == (200, {"status": "stored"})
    assert (again.status_code, again.json()) == (200, {"status": "duplicate"})
    (row,) = await gateway.archived()
    assert row["payload"] == json.dumps(event).encode()
    assert row["tenant_id"] == ACME
    assert row["headers"]["stripe-signature"].startswith("t=")
    ((tenant_id, mode, published),) = await gateway.published()
    assert (tenant_id, mode) == (ACME, "test")
    assert published["data"]["stripe_event_id"] == event["id"]
    assert published["data"]["account"] == "platform"
    assert (published["data"]["object_type"], published["data"]["object_id"]) == ("invoice", "in_1")
    assert json.loads(published["data"]["payload"]) == event


async def test_both_addresses_are_one(gateway: Gateway) -> None:
    event = snapshot_event()
    assert (await gateway.send(event, url="/api/v1/billing/webhook")).json()["status"] == "stored"
    assert (await gateway.send(event)).json()["status"] == "duplicate"


async def test_a_hundred_twins_at_once_are_one_event(gateway: Gateway) -> None:
    event = snapshot_event()
    answers = await asyncio.gather(*(gateway.send(event) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["status"] for answer in answers].count("stored") == 1
    assert len(await gateway.published()) == 1


@pytest.mark.parametrize(
    ("subject", "tenant", "assignment"),
    [
        ({"customer": ACME_CUSTOMER}, ACME, "customer"),
        ({"customer": {"id": ACME_CUSTOMER, "object": "customer"}}, ACME, "customer"),
        ({"id": ACME_CUSTOMER, "object": "customer"}, ACME, "customer"),
        ({"customer": ACME_CUSTOMER, "metadata": {"tenant_id": str(GLOBEX)}}, ACME, "customer"),
        ({"customer": "cus_new", "metadata": {"tenant_id": str(GLOBEX)}}, GLOBEX, "metadata"),
        (
            {"parent": {"subscription_details": {"metadata": {"tenant_id": str(GLOBEX)}}}},
            GLOBEX,
            "metadata",
        ),
        ({"metadata": {"tenant_id": str(new_id())}}, PLATFORM_TENANT_ID, "unassigned"),
        ({"customer": "cus_nobody"}, PLATFORM_TENANT_ID, "unassigned"),
        ({}, PLATFORM_TENANT_ID, "account"),
        ({"customer": 7, "metadata": [], "parent": "x"}, PLATFORM_TENANT_ID, "account"),
    ],
)
async def test_the_tenant_of_an_event(
    gateway: Gateway, subject: dict[str, Any], tenant: Any, assignment: str
) -> None:
    assert (await gateway.send(about(**subject))).status_code == 200
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["assignment"]) == (tenant, assignment)


async def test_secrets_roll_without_a_refusal(gateway: Gateway) -> None:
    assert (await gateway.send(snapshot_event(), secret=PREVIOUS)).status_code == 200
    event = snapshot_event()
    body = json.dumps(event).encode()
    now = int(utc_now().timestamp())
    old = sign(b"whsec_forgotten", body, now).partition(b",")[2]
    header = sign(PREVIOUS, body, now) + b"," + old
    assert (await gateway.send(event, header=header)).status_code == 200


async def test_a_thin_event_is_kept(gateway: Gateway) -> None:
    event = {
        "id": "evt_thin_1",
        "object": "v2.core.event",
        "type": "v2.core.account[requirements].updated",
        "livemode": False,
        "created": "2026-10-30T12:00:00.000Z",
        "related_object": {"id": ACME_CUSTOMER, "type": "customer", "url": "/v1/customers/x"},
        "context": None,
    }
    assert (await gateway.send(event)).json() == {"status": "stored"}
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["object_id"]) == (ACME, ACME_CUSTOMER)


@pytest.mark.parametrize("name", HOSTILE)
async def test_signed_but_odd(gateway: Gateway, name: str) -> None:
    changes, status, outcome = HOSTILE[name]
    answer = await gateway.send(snapshot_event(**changes))
    assert (answer.status_code, answer.json()["status"]) == (status, outcome)
    assert len(await gateway.published()) == (outcome == "stored")


async def test_4_a_connect_secret_on_an_own_event_is_quarantined(gateway: Gateway) -> None:
    assert (await gateway.send(snapshot_event(), secret=CONNECT)).json()["status"] == "quarantined"
    (row,) = await gateway.archived()
    assert row["quarantine_reason"] == "account_missing"
    assert await gateway.published() == []


async def test_21_an_unknown_account_is_quarantined_once(gateway: Gateway) -> None:
    event = snapshot_event(account="acct_stranger")
    assert (await gateway.send(event, secret=CONNECT)).json()["status"] == "quarantined"
    assert (await gateway.send(event, secret=CONNECT)).json()["status"] == "duplicate"
    (row,) = await gateway.archived()
    assert (row["account"], row["tenant_id"]) == ("acct_stranger", PLATFORM_TENANT_ID)
    unsigned = await gateway.send(snapshot_event(account="acct_stranger"), secret=b"whsec_no")
    assert unsigned.status_code == 400
    assert unsigned.json()["code"] == "signature_invalid"


async def test_22_the_same_id_with_another_body_changes_nothing(gateway: Gateway) -> None:
    event = snapshot_event()
    await gateway.send(event)
    other = {**event, "data": {"object": {"id": "in_2", "object": "invoice"}}}
    assert (await gateway.send(other)).json() == {"status": "duplicate"}
    (row,) = await gateway.archived()
    assert row["object_id"] == "in_1"


def refused_headers() -> dict[str, tuple[bytes, bytes]]:
    """(header, body) by bad input; the body is right unless the input is about it."""
    body = json.dumps(snapshot_event()).encode()
    now = int(utc_now().timestamp())
    good = sign(b"whsec_current", body, now)
    digest = good.partition(b"v1=")[2]
    return {
        "2_wrong_secret": (sign(b"whsec_wrong", body, now), body),
        "3_another_endpoints_secret": (sign(b"whsec_of_tenant_b", body, now), body),
        "5_too_old": (sign(b"whsec_current", body, now - 310), body),
        "6_in_the_future": (sign(b"whsec_current", body, now + 310), body),
        "7_time_not_a_number": (b"t=soon,v1=" + digest, body),
        "7_time_huge": (b"t=" + b"9" * 400 + b",v1=" + digest, body),
        "7_time_negative": (b"t=-5,v1=" + digest, body),
        "8_two_times": (b"t=%d,%s" % (now, good), body),
        "9_many_signatures_over_4_kb": (good + b",v1=" + b",v1=".join([digest] * 100), body),
        "10_non_ascii": (b"t=%d,v1=" % now + "ü".encode() * 32, body),
        "11_v0_only": (good.replace(b"v1=", b"v0="), body),
        "12_one_byte_changed": (good, body.replace(b"in_1", b"in_2")),
        "12_serialized_again": (good, json.dumps(json.loads(body), indent=1).encode()),
        "14_gzip": (good, gzip.compress(body)),
        "no_pairs": (b",,,===,", body),
        "empty": (b"", body),
    }


@pytest.mark.parametrize("name", refused_headers())
async def test_bad_signatures_are_answered_alike(gateway: Gateway, name: str) -> None:
    header, body = refused_headers()[name]
    answer = await gateway.client.post(URL, content=body, headers={"stripe-signature": header})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "signature_invalid"
    assert "whsec" not in answer.text
    assert await gateway.count("webhook_event") == 0


async def test_1_no_signature(gateway: Gateway) -> None:
    answer = await gateway.client.post(URL, json=snapshot_event())
    assert (answer.status_code, answer.json()["code"]) == (400, "signature_invalid")


async def test_two_signature_headers_are_none(gateway: Gateway) -> None:
    body = json.dumps(snapshot_event()).encode()
    signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
    headers = [("stripe-signature", signed), ("stripe-signature", signed)]
    assert (await gateway.client.post(URL, content=body, headers=headers)).status_code == 400


async def test_9_five_thousand_signatures(gateway: Gateway) -> None:
    header = b"t=1," + b"v1=00," * 5000
    answer = await gateway.client.post(URL, content=b"{}", headers={"stripe-signature": header})
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


def deep(text: str) -> bytes:
    """An event with this JSON somewhere inside."""
    event = json.dumps(snapshot_event(extra="MARK"))
    return event.replace('"MARK"', text).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff\xfe{}", id="13_not_utf8"),
        pytest.param(b"[]", id="17_array"),
        pytest.param(b"null", id="17_null"),
        pytest.param(b'"x"', id="17_string"),
        pytest.param(b"{}", id="17_empty_object"),
        pytest.param(b"", id="17_nothing"),
        pytest.param(b"[" * 100_000, id="18_deep"),
        pytest.param(deep('{"a":' * 60_000 + "1" + "}" * 60_000), id="18_deep_inside"),
        pytest.param(deep("NaN"), id="19_nan"),
        pytest.param(deep("-Infinity"), id="19_infinity"),
        pytest.param(deep("9" * 5000), id="19_huge_integer"),
        pytest.param(deep('{"a":1,"a":2}'), id="20_duplicate_keys"),
        pytest.param(json.dumps(snapshot_event(id="evt_\x00")).encode(), id="nul_in_id"),
        pytest.param(json.dumps(snapshot_event(id=None)).encode(), id="no_id"),
        pytest.param(json.dumps(snapshot_event(created=10**20)).encode(), id="created_huge"),
        pytest.param(json.dumps(snapshot_event(created=True)).encode(), id="created_true"),
        pytest.param(json.dumps(snapshot_event(livemode="no")).encode(), id="livemode_text"),
        pytest.param(json.dumps(snapshot_event(account="me")).encode(), id="account_odd"),
        pytest.param(json.dumps(snapshot_event(data=None)).encode(), id="no_data"),
    ],
)
async def test_signed_bytes_that_are_no_event(gateway: Gateway, body: bytes) -> None:
    answer = await gateway.send(body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "not_an_event"
    assert await gateway.count("webhook_event") == 0


async def test_19_an_exponent_beyond_floats_is_only_a_number(gateway: Gateway) -> None:
    assert (await gateway.send(deep("1e400"))).json() == {"status": "stored"}


async def test_nul_inside_a_signed_event_is_kept(gateway: Gateway) -> None:
    answer = await gateway.send(about(description="a\x00b", customer="cus_\x00"))
    assert answer.json() == {"status": "stored"}


async def test_14_chunked_without_length(gateway: Gateway) -> None:
    body = json.dumps(snapshot_event()).encode()

    async def chunks() -> Any:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
    answer = await gateway.client.post(URL, content=chunks(), headers={"stripe-signature": signed})
    assert answer.json() == {"status": "stored"}


async def test_15_a_body_over_the_limit_is_not_read_to_its_end(gateway: Gateway) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 1000:
            sent += 1
            yield b"x" * 65536

    answer = await gateway.client.post(URL, content=endless())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert sent < 20
    declared = await gateway.client.post(URL, content=b"x" * (512 * 1024 + 1))
    assert declared.status_code == 413


async def test_a_large_event_is_kept_whole_and_travels_without_its_body(gateway: Gateway) -> None:
    assert (await gateway.send(about(description="x" * 400_000))).status_code == 200
    ((_, _, published),) = await gateway.published()
    assert published["data"]["payload"] is None
    (row,) = await gateway.archived()
    assert len(row["payload"]) > 400_000


async def test_16_a_body_that_trickles_is_cut_off(gateway: Gateway) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        try:
            return next(messages)
        except StopIteration:
            await asyncio.sleep(60)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
    }
    async with asyncio.timeout(15):
        await gateway.app(scope, receive, send)
    assert sent[0]["status"] == 408


async def test_without_a_secret_the_endpoint_is_closed(gateway: Gateway) -> None:
    gateway.app.state.endpoint_secrets = ()
    answer = await gateway.send(snapshot_event())
    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


@pytest.mark.usefixtures("environment")
async def test_postgres_down_says_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_GATEWAY_POSTGRES", "postgresql://nobody:x@127.0.0.1:1/none")
    async with running(build()) as client:
        body = json.dumps(snapshot_event()).encode()
        signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
        answer = await client.post(URL, content=body, headers={"stripe-signature": signed})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.usefixtures("gateway")
async def test_kafka_down_is_not_noticed_by_stripe() -> None:
    async with running(build()) as client:
        body = json.dumps(snapshot_event()).encode()
        signed = sign(b"whsec_current", body, int(utc_now().timestamp()))
        answer = await client.post(URL, content=body, headers={"stripe-signature": signed})
    assert answer.json() == {"status": "stored"}


class running:  # noqa: N801 - reads as a phrase
    """An application with its lifespan, and a client of it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._lifespan = app.router.lifespan_context(app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def __aenter__(self) -> httpx.AsyncClient:
        await self._lifespan.__aenter__()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._lifespan.__aexit__(None, None, None)


async def test_replaying_the_topics_changes_nothing(gateway: Gateway, log: MemoryLog) -> None:
    log.add(gateway.database, {}, parks=False)
    for number in range(5):
        await gateway.send(about(customer=ACME_CUSTOMER, id=f"in_{number}"))
    await log.settle()
    before = (await gateway.count("webhook_event"), await gateway.count("outbox"))
    await log.replay(clear_inboxes=True)
    assert (await gateway.count("webhook_event"), await gateway.count("outbox")) == before
    assert len(log.events(StripeEventReceived)) == 5


async def test_sql_in_another_tenants_scope_sees_nothing(gateway: Gateway) -> None:
    await gateway.send(snapshot_event())
    async with gateway.database.tenant(GLOBEX, "test") as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == 0
    async with gateway.database.tenant(ACME, "live") as tx:
        assert await tx.fetchval("select count(*) from webhook_event") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with gateway.database.tenant(ACME, "test") as tx:
            await tx.execute("delete from webhook_event")
