"""API keys: shown once, stored as a hash, limited to what their maker may, revoked at once."""

from datetime import timedelta
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.crypto import apikeys
from libs.testing.databases import TestDatabase
from services.tenants import snapshot
from tenants.conftest import PEPPER, World

KEYS = "/api/v1/api-keys"


def asked(**changes: Any) -> dict[str, Any]:
    body = {"tenant": "acme", "name": "ci", "scopes": ["usage:write"], "mode": "test"}
    return body | changes


async def dump(database: TestDatabase) -> str:
    """Every row of every table of the schema as text."""
    async with database.admin() as admin:
        tables = await admin.fetch(
            "select relname from pg_class where relnamespace = 'tenants'::regnamespace "
            "and relkind = 'r'"
        )
        return "".join(
            [
                await admin.fetchval(
                    f"select coalesce(string_agg(t::text, ' '), '') from tenants.{table} t"
                )
                for (table,) in tables
            ]
        )


async def test_a_key_works_and_its_secret_is_stored_nowhere(
    world: World, database: TestDatabase
) -> None:
    acme = await world.sign_up("Acme")
    parts: dict[str, Any] = {"json": asked(), "headers": {"Idempotency-Key": "one"}}
    made = await world.call("POST", KEYS, **parts)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json()["key"]
    assert (await world.call("GET", "/api/v1/tenants/acme/status", key=key)).status_code == 200
    stored = await dump(database)
    assert key not in stored
    assert key.rpartition("_")[2] not in stored
    (record,) = world.snapshot(acme["id"]).api_keys
    assert apikeys.verify(key, PEPPER, bytes.fromhex(record.key_hash))
    again = await world.call("POST", KEYS, **parts)
    assert again.json() == made.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(world.snapshot(acme["id"]).api_keys) == 1
    other = await world.call("POST", KEYS, **(parts | {"json": asked(name="other")}))
    assert other.status_code == 409
    listed = (await world.call("GET", KEYS, headers={"X-Tenant-ID": "acme"})).json()["items"]
    assert [item["id"] for item in listed] == [made.json()["id"]]
    assert "key" not in listed[0]


async def test_a_revoked_key_is_refused_at_once(world: World) -> None:
    acme = await world.sign_up("Acme")
    made = (await world.call("POST", KEYS, json=asked(scopes=["members:manage"]))).json()
    path = f"{KEYS}/{made['id']}"
    for _ in range(2):
        answer = await world.call("DELETE", path, headers={"X-Tenant-ID": "acme"})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Sluice-Version"] == f"{acme['id']}:3"
    refused = await world.call("GET", "/api/v1/tenants/acme/status", key=made["key"])
    assert refused.status_code == 401
    changes = [e.data.action for e in world.log.events(ConfigurationChanged)]
    assert changes.count("api_key.revoked") == 1


BAD_CHANGES: list[dict[str, Any]] = [
    {"scopes": []},
    {"scopes": ["operator"]},
    {"scopes": ["usage:write", "everything"]},
    {"scopes": ["usage:write"] * 8},
    {"mode": "production"},
    {"name": "a\x00"},
    {"name": ""},
    {"operator": True},
    {"expires_at": "2020-01-01T00:00:00Z"},
    {"expires_at": "2999-01-01T00:00:00Z"},
    {"expires_at": "2027-01-01T00:00:00"},
    {"tenant": ""},
]


async def test_a_bad_body_makes_no_key(world: World) -> None:
    acme = await world.sign_up("Acme")
    for changes in BAD_CHANGES:
        answer = await world.call("POST", KEYS, json=asked(**changes))
        assert answer.status_code == 422, (changes, answer.text)
    assert world.snapshot(acme["id"]).api_keys == ()


async def test_an_expired_key_is_refused(world: World) -> None:
    await world.sign_up("Acme")
    soon = utc_now() + timedelta(hours=1)
    made = await world.call("POST", KEYS, json=asked(expires_at=soon.isoformat()))
    key = made.json()["key"]
    path = "/api/v1/tenants/acme/status"
    assert (await world.call("GET", path, key=key)).status_code == 200
    async with world.database.tenant(made.json()["tenant_id"], None) as tx:
        await tx.execute("update api_key set expires_at = now() - interval '1 second'")
        await snapshot.publish(tx, utc_now())
    await world.settle()
    assert (await world.call("GET", path, key=key)).status_code == 401


async def test_a_key_gives_no_more_than_it_has(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage", "usage:write")
    refusals = {
        "billing:manage": asked(scopes=["billing:manage"]),
        "members:manage": asked(mode="live"),
    }
    for permission, body in refusals.items():
        answer = await world.call("POST", KEYS, key=key, json=body)
        assert (answer.status_code, answer.json()["permission"]) == (403, permission)
    assert (await world.call("POST", KEYS, key=key, json=asked())).status_code == 201
    denied = [
        event.data.permission
        for event in world.log.events(SecurityEventRaised)
        if event.data.kind == "permission_denied"
    ]
    assert denied == ["billing:manage", "members:manage"]


async def test_a_key_of_one_mode_does_not_see_those_of_the_other(world: World) -> None:
    await world.sign_up("Acme")
    test = await world.make_key("acme", "members:manage")
    body = asked(mode="live", scopes=["members:manage"])
    live = (await world.call("POST", KEYS, json=body)).json()
    assert live["key"].startswith("slk_live_")
    items = (await world.call("GET", KEYS, key=test)).json()["items"]
    assert [item["mode"] for item in items] == ["test"]
    assert (await world.call("DELETE", f"{KEYS}/{live['id']}", key=test)).status_code == 404
    everything = (await world.call("GET", KEYS, headers={"X-Tenant-ID": "acme"})).json()["items"]
    assert [item["mode"] for item in everything] == ["test", "live"]


async def test_a_key_without_the_scope_manages_nothing(world: World) -> None:
    await world.sign_up("Acme")
    weak = await world.make_key("acme", "billing:manage")
    for method, path in (("GET", KEYS), ("POST", KEYS), ("GET", "/api/v1/audit-log")):
        answer = await world.call(
            method, path, key=weak, **({"json": asked()} if method == "POST" else {})
        )
        assert (answer.status_code, answer.json()["permission"]) == (403, "members:manage")


async def test_keys_of_another_tenant_are_absent(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    acme = (await world.call("POST", KEYS, json=asked())).json()
    globex = await world.make_key("globex", "members:manage", "usage:write")
    assert (await world.call("DELETE", f"{KEYS}/{acme['id']}", key=globex)).status_code == 404
    answer = await world.call("POST", KEYS, key=globex, json=asked())
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_forbidden")
    for odd in ("key_x", "x", acme["id"].replace("key_", "usr_")):
        assert (await world.call("DELETE", f"{KEYS}/{odd}", key=globex)).status_code == 404


async def test_there_is_an_end_to_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tenants.keys.KEYS_MAX", 2)
    await world.sign_up("Acme")
    for _ in range(2):
        await world.make_key("acme", "usage:write")
    answer = await world.call("POST", KEYS, json=asked())
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_keys")


async def test_header_and_body_that_differ_are_refused(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    answer = await world.call("POST", KEYS, json=asked(), headers={"X-Tenant-ID": "globex"})
    assert answer.status_code == 400
