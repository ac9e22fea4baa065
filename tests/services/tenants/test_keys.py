"""API keys: shown once, stored as a hash, limited to what their maker may, rotated, revoked."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.crypto import apikeys
from libs.testing.databases import TestDatabase
from services.tenants import keys, snapshot
from services.tenants.roles import SCOPES
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
    {"scopes": ["usage:write"] * 50},
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
    await world.go_live("acme")
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
    odd_ones = ("key_x", "x", acme["id"].replace("key_", "usr_"))
    for odd in odd_ones:
        assert (await world.call("DELETE", f"{KEYS}/{odd}", key=globex)).status_code == 404
    # Each stands in the log of who asked, whether it was another's or nobody's.
    asked_for = [
        event
        for event in world.log.events(SecurityEventRaised)
        if event.data.kind == "object_absent"
    ]
    assert [event.data.path for event in asked_for] == [
        f"{KEYS}/{each}" for each in (acme["id"], *odd_ones)
    ]
    assert {event.data.permission for event in asked_for} == {"members:manage"}


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


async def rotate(world: World, key_id: str, tenant: str = "acme", **body: Any) -> httpx.Response:
    headers = {"X-Tenant-ID": tenant}
    return await world.call("POST", f"{KEYS}/{key_id}/rotate", json=body, headers=headers)


async def status_of(world: World, key: str) -> int:
    return (await world.call("GET", "/api/v1/tenants/acme/status", key=key)).status_code


async def test_a_rotated_key_has_a_successor_and_both_work_for_the_overlap(world: World) -> None:
    acme = await world.sign_up("Acme")
    in_a_month = utc_now() + timedelta(days=30)
    body = asked(scopes=["usage:write", "billing:read"], expires_at=in_a_month.isoformat())
    old = (await world.call("POST", KEYS, json=body)).json()
    new = (await rotate(world, old["id"], overlap_seconds=3600)).json()
    assert new["key"] != old["key"]
    same = ("name", "scopes", "mode", "tenant_id")
    assert [new[name] for name in same] == [old[name] for name in same]
    assert (new["replaces"], new["replaced_by"]) == (old["id"], None)
    life = datetime.fromisoformat(new["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert abs(life - timedelta(days=30)) < timedelta(minutes=1)
    listed = (await world.call("GET", KEYS, headers={"X-Tenant-ID": "acme"})).json()["items"]
    assert [item["id"] for item in listed] == [old["id"], new["id"]]
    assert listed[0]["replaced_by"] == new["id"]
    left = datetime.fromisoformat(listed[0]["expires_at"]) - utc_now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert [await status_of(world, made["key"]) for made in (old, new)] == [200, 200]
    records = {str(record.key_id): record for record in world.snapshot(acme["id"]).api_keys}
    assert len(records) == 2
    assert new["key"] not in await dump_of(world)
    (rotated,) = [
        e.data for e in world.log.events(ConfigurationChanged) if e.data.action == "api_key.rotated"
    ]
    assert (rotated.object_id, rotated.after["replaced_by"]) == (old["id"], new["id"])


async def dump_of(world: World) -> str:
    return "".join(str(record.value) for topic in world.log.topics.values() for record in topic)


async def test_without_an_overlap_the_old_key_ends_at_once(world: World) -> None:
    await world.sign_up("Acme")
    old = (await world.call("POST", KEYS, json=asked())).json()
    new = (await rotate(world, old["id"], overlap_seconds=0)).json()
    assert [await status_of(world, made["key"]) for made in (old, new)] == [401, 200]


async def test_a_rotation_never_lengthens_a_keys_life(world: World) -> None:
    await world.sign_up("Acme")
    soon = utc_now() + timedelta(minutes=5)
    old = (await world.call("POST", KEYS, json=asked(expires_at=soon.isoformat()))).json()
    await rotate(world, old["id"])
    listed = (await world.call("GET", KEYS, headers={"X-Tenant-ID": "acme"})).json()["items"]
    assert datetime.fromisoformat(listed[0]["expires_at"]) == soon


async def test_the_same_rotation_asked_again_gets_the_same_key(world: World) -> None:
    await world.sign_up("Acme")
    old = (await world.call("POST", KEYS, json=asked())).json()
    path = f"{KEYS}/{old['id']}/rotate"
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    first = await world.call("POST", path, json={}, headers=headers)
    again = await world.call("POST", path, json={}, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await world.call("POST", path, json={"overlap_seconds": 1}, headers=headers)
    assert other.status_code == 409


async def test_a_key_that_cannot_be_rotated(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    old = (await world.call("POST", KEYS, json=asked())).json()
    new = (await rotate(world, old["id"])).json()
    answer = await rotate(world, old["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "key_replaced")
    revoked = await world.call(
        "DELETE",
        f"{KEYS}/{new['id']}",
        params={"reason": "seen in a log"},
        headers={"X-Tenant-ID": "acme"},
    )
    assert revoked.status_code == 204
    answer = await rotate(world, new["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "key_ended")
    listed = (await world.call("GET", KEYS, headers={"X-Tenant-ID": "acme"})).json()["items"]
    assert listed[1]["revoke_reason"] == "seen in a log"
    for body in ({"overlap_seconds": -1}, {"overlap_seconds": 2_592_001}, {"name": "mine"}):
        assert (await rotate(world, old["id"], **body)).status_code == 422
    assert (await rotate(world, old["id"], "globex")).status_code == 404
    assert (await rotate(world, "key_none")).status_code == 404
    theirs = await world.make_key("globex", "members:manage")
    stolen = await world.call("POST", f"{KEYS}/{old['id']}/rotate", key=theirs, json={})
    assert stolen.status_code == 404


async def test_a_key_does_not_rotate_one_that_may_more(world: World) -> None:
    await world.sign_up("Acme")
    large = (await world.call("POST", KEYS, json=asked(scopes=["billing:manage"]))).json()
    small = await world.make_key("acme", "members:manage")
    answer = await world.call("POST", f"{KEYS}/{large['id']}/rotate", key=small, json={})
    assert (answer.status_code, answer.json()["permission"]) == (403, "billing:manage")
    platform = {"tenant": "platform", "name": "hand", "scopes": sorted(SCOPES), "mode": "test"}
    hand = (await world.call("POST", KEYS, json=platform)).json()["key"]
    (first, *_) = (await world.call("GET", KEYS, key=hand)).json()["items"]
    answer = await world.call("POST", f"{KEYS}/{first['id']}/rotate", key=hand, json={})
    assert (answer.status_code, answer.json()["permission"]) == (403, "operator")


async def test_an_operators_key_is_rotated_into_an_operators_key(world: World) -> None:
    await world.sign_up("Acme")
    (first, *_) = (await world.call("GET", KEYS)).json()["items"]
    new = (await rotate(world, first["id"], "platform")).json()
    answer = await world.call("GET", "/api/v1/tenants/acme", key=new["key"])
    assert answer.status_code == 200


async def test_two_rotations_at_once_make_one_successor(world: World) -> None:
    await world.sign_up("Acme")
    old = (await world.call("POST", KEYS, json=asked())).json()
    path, headers = f"{KEYS}/{old['id']}/rotate", {"Authorization": f"Bearer {world.operator}"}
    headers["X-Tenant-ID"] = "acme"
    answers = await asyncio.gather(
        *(world.client.post(path, json={}, headers=headers) for _ in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_ended_keys_make_room_for_new_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sign_up("Acme")
    monkeypatch.setattr(keys, "KEYS_MAX", 2)
    made = (await world.call("POST", KEYS, json=asked())).json()
    for _ in range(3):
        made = (await rotate(world, made["id"], overlap_seconds=0)).json()
    made = (await rotate(world, made["id"])).json()
    answer = await world.call("POST", KEYS, json=asked())
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_keys")
