"""Signing up: slugs, hostile bodies, the same request twice, many at once."""

import asyncio
from typing import Any

import pytest

from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.tenants import TenantCreated
from services.tenants import slugs
from tenants.conftest import World


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Café Zürich GmbH", "cafe-zurich-gmbh"),
        ("  --  A & B  -- ", "a-b"),
        ("株式会社", "tenant"),
        ("x" * 200, "x" * 40),
    ],
)
def test_a_slug_resembles_the_name(name: str, slug: str) -> None:
    assert slugs.derive(name) == slug


async def test_derived_slugs_are_unique_and_never_reserved(world: World) -> None:
    found = [(await world.sign_up("Acme"))["slug"] for _ in range(3)]
    assert found == ["acme", "acme-2", "acme-3"]
    assert (await world.sign_up("Platform"))["slug"] == "platform-2"


async def test_a_taken_slug_is_refused_whatever_its_case(world: World) -> None:
    await world.sign_up("Acme", slug="Acme-Corp")
    answer = await world.call(
        "POST", "/api/v1/tenants", json={"name": "Other", "slug": "ACME-corp"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "slug_taken")
    assert len(world.log.events(TenantCreated)) == 3


async def test_many_sign_ups_at_once_get_different_slugs(world: World) -> None:
    answers = await asyncio.gather(
        *(
            world.client.post(
                "/api/v1/tenants",
                json={"name": "Acme"},
                headers={"Authorization": f"Bearer {world.operator}"},
            )
            for _ in range(6)
        )
    )
    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.json()["slug"] for answer in answers}) == 6


async def test_one_of_many_gets_the_slug_asked_for(world: World) -> None:
    answers = await asyncio.gather(
        *(
            world.client.post(
                "/api/v1/tenants",
                json={"name": "Acme", "slug": "acme"},
                headers={"Authorization": f"Bearer {world.operator}"},
            )
            for _ in range(4)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


BAD_BODIES: list[Any] = [
    {},
    {"name": ""},
    {"name": "   "},
    {"name": "x" * 201},
    {"name": "a\x00b"},
    {"name": "a\nb"},
    {"name": 7},
    {"name": None},
    {"name": "A", "slug": "-a"},
    {"name": "A", "slug": "a_b"},
    {"name": "A", "slug": "ä"},
    {"name": "A", "slug": ""},
    {"name": "A", "slug": "a" * 64},
    {"name": "A", "slug": "platform"},
    {"name": "A", "slug": "Default"},
    {"name": "A", "slug": "0192aaaa-0000-7000-8000-000000000001"},
    {"name": "A", "type": "team"},
    {"name": "A", "currency": "EURO"},
    {"name": "A", "currency": "XXX"},
    {"name": "A", "locale": "english please"},
    {"name": "A", "owner_email": "nobody"},
    {"name": "A", "owner_email": "a\x00@b.example"},
    {"name": "A", "owner_email": f"{'a' * 300}@b.example"},
    {"name": "A", "settings": {"billing_email": "x"}},
    {"name": "A", "settings": {"other": 1}},
    {"name": "A", "status": "active"},
    {"name": "A", "tenant_id": "0192aaaa-0000-7000-8000-000000000001"},
    [],
    "A",
]


async def test_a_bad_body_is_refused_whole(world: World) -> None:
    for body in BAD_BODIES:
        answer = await world.call("POST", "/api/v1/tenants", json=body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert len(world.log.events(TenantCreated)) == 2


async def test_the_same_request_again_gets_the_same_tenant(world: World) -> None:
    parts: dict[str, Any] = {
        "json": {"name": "Acme", "owner_email": "a@acme.test"},
        "headers": {"Idempotency-Key": "one"},
    }
    first = await world.call("POST", "/api/v1/tenants", **parts)
    again = await world.call("POST", "/api/v1/tenants", **parts)
    assert first.json() == again.json()
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await world.call("POST", "/api/v1/tenants", **(parts | {"json": {"name": "B"}}))
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_a_write_says_which_version_it_made(world: World) -> None:
    answer = await world.call("POST", "/api/v1/tenants", json={"name": "Acme"})
    stamp = answer.headers["Sluice-Version"]
    assert stamp == f"{answer.json()['id']}:1"
    read = await world.call("GET", "/api/v1/tenants/acme", headers={"Sluice-Version": stamp})
    assert read.status_code == 200


async def test_a_tenants_key_makes_no_tenants_and_the_try_is_recorded(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage", "billing:manage")
    answer = await world.call("POST", "/api/v1/tenants", key=key, json={"name": "Mine"})
    assert (answer.status_code, answer.json()["permission"]) == (403, "operator")
    denied = [
        e for e in world.log.events(SecurityEventRaised) if e.data.kind == "permission_denied"
    ]
    assert [event.data.permission for event in denied] == ["operator"]


async def test_lists_show_an_operator_everybody_and_a_tenant_itself(world: World) -> None:
    for name in ("Acme", "Globex", "Initech"):
        await world.sign_up(name)
    key = await world.make_key("acme", "tenants:read")
    own = (await world.call("GET", "/api/v1/tenants", key=key)).json()
    assert [item["slug"] for item in own["items"]] == ["acme"]
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await world.call("GET", "/api/tenants", params=query)).json()
        seen += [item["slug"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == ["acme", "default", "globex", "initech", "platform"]


async def test_another_tenant_is_refused_whether_or_not_it_exists(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    key = await world.make_key("acme", "tenants:read", "members:manage")
    for slug in ("globex", "nobody"):
        for path in (
            f"/api/v1/tenants/{slug}",
            f"/api/v1/tenants/{slug}/status",
            f"/api/v1/tenants/{slug}/clock",
        ):
            answer = await world.call("GET", path, key=key)
            assert (answer.status_code, answer.json()["code"]) == (403, "tenant_forbidden")
    body = {"advance_to": "2030-01-01T00:00:00Z"}
    answer = await world.call("POST", "/api/v1/tenants/acme/clock", key=key, json=body)
    assert (answer.status_code, answer.json()["permission"]) == (403, "operator")
    answer = await world.call("GET", "/api/v1/tenants/nobody")
    assert answer.status_code == 404


async def test_the_log_begins_with_the_tenant(world: World) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    told = [
        event.data.action
        for event in world.log.events(ConfigurationChanged)
        if str(event.tenant_id) == acme["id"]
    ]
    assert told[0] == "tenant.created"
    assert len(told) > 1
