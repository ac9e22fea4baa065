"""A key carries what its maker could give now: no more at its making, and no more afterwards."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.ids import parse_public_id, public_id
from libs.web.auth import IMPLIED
from services.tenants import authority, store_keys
from services.tenants.key_rights import REASON, REASON_MAKER_REVOKED
from tenants.conftest import World
from tenants.persons import Person, signed_in

KEYS = "/api/v1/api-keys"
ALL = ["members:manage", "usage:write", "usage:read"]


async def made_by(person: Person, *scopes: str) -> dict[str, Any]:
    answer = await person.call(
        "POST", KEYS, "acme", json={"name": "ci", "scopes": list(scopes), "mode": "test"}
    )
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def made_with(world: World, key: str, *scopes: str) -> dict[str, Any]:
    answer = await world.call(
        "POST", KEYS, key=key, json={"name": "ci", "scopes": list(scopes), "mode": "test"}
    )
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def is_taken(world: World, key: dict[str, Any]) -> bool:
    """Whether the gate knows the key."""
    answer = await world.call("GET", "/api/v1/tenants/acme/status", key=key["key"])
    return answer.status_code != 401


def member_path(user_id: UUID) -> str:
    return f"/api/v1/members/{public_id('user', user_id)}"


@pytest.mark.parametrize("how", ["removed", "erased"])
async def test_keys_end_with_the_membership_of_their_maker(world: World, how: str) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        first = await made_by(admin, *ALL)
        second = await made_with(world, first["key"], "usage:write")
        theirs = await world.make_key("acme", "usage:write")
        path = member_path(await admin.user_id())
        if how == "erased":
            path += "/personal-data"
        headers = {"X-Tenant-ID": "acme"}
        before = world.snapshot(acme["id"]).version
        answer = await world.call("DELETE", path, headers=headers)
        assert answer.status_code == 204, answer.text
    assert not await is_taken(world, first)
    assert not await is_taken(world, second)
    answer = await world.call("GET", "/api/v1/tenants/acme/status", key=theirs)
    assert answer.status_code != 401
    # One commit: the record that tells of the member tells of the keys.
    told = world.snapshot(acme["id"])
    ended = {key.key_id for key in told.api_keys if key.revoked_at is not None}
    assert {public_id("api_key", each) for each in ended} == {first["id"], second["id"]}
    assert told.members_revoked
    assert told.version <= before + 2
    changes = [
        event.data
        for event in world.log.events(ConfigurationChanged)
        if event.data.action == "api_key.revoked"
    ]
    assert {change.object_id for change in changes} == {first["id"], second["id"]}
    assert all(change.after == {"reason": REASON} for change in changes)


async def test_keys_within_what_is_left_stay(world: World) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        small = await made_by(admin, "usage:read")
        large = await made_by(admin, "usage:read", "usage:write")
        path = member_path(await admin.user_id())
        headers = {"X-Tenant-ID": "acme"}
        answer = await world.call("PATCH", path, json={"role": "billing_admin"}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert await is_taken(world, small)
        assert not await is_taken(world, large)
        # What comes back later brings no key back.
        await world.call("PATCH", path, json={"role": "admin"}, headers=headers)
        assert not await is_taken(world, large)


async def test_a_key_that_somebody_else_rotated_is_theirs(world: World) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        old = await made_by(admin, "usage:write")
        headers = {"X-Tenant-ID": "acme"}
        rotated = await world.call("POST", f"{KEYS}/{old['id']}/rotate", json={}, headers=headers)
        assert rotated.status_code == 201, rotated.text
        await world.call("DELETE", member_path(await admin.user_id()), headers=headers)
    assert not await is_taken(world, old)
    assert await is_taken(world, rotated.json())


async def test_rights_that_were_lost_a_moment_ago_make_no_key(world: World) -> None:
    """The gate of this service has not heard of it yet; the tables have."""
    await world.sign_up("Acme", owner_email="owner@acme.example")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        old = await made_by(admin, "usage:read")
        late = await made_by(admin, *ALL)
        assertion = await admin.assertion("acme")
        path = member_path(await admin.user_id())
        client, operator = world.client, {"Authorization": f"Bearer {world.operator}"}
        client_headers = operator | {"X-Tenant-ID": "acme"}
        answer = await client.patch(path, json={"role": "member"}, headers=client_headers)
        assert answer.status_code == 200, answer.text
        body = {"name": "ci", "scopes": ["usage:read"], "mode": "test"}
        for credential in (assertion, late["key"]):
            headers = {"Authorization": f"Bearer {credential}"}
            answer = await client.post(KEYS, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_permissions")
            answer = await client.post(f"{KEYS}/{old['id']}/rotate", json={}, headers=headers)
            assert answer.status_code == 403, answer.text
        await world.settle()


async def test_a_key_rotates_itself_at_once(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", *ALL)
    (shown,) = (await world.call("GET", KEYS, key=key)).json()["items"]
    body = {"overlap_seconds": 0}
    answer = await world.call("POST", f"{KEYS}/{shown['id']}/rotate", key=key, json=body)
    assert answer.status_code == 201, answer.text


async def test_a_key_of_the_staff_ends_with_the_last_who_rotated_it(world: World) -> None:
    (shown,) = (await world.call("GET", KEYS)).json()["items"]
    async with signed_in(world, "staff@example.com", platform="member") as staff:
        answer = await staff.call(
            "POST", f"{KEYS}/{shown['id']}/rotate", "platform", json={"overlap_seconds": 3600}
        )
        assert answer.status_code == 201, answer.text
        rotated = answer.json()
        assert (await world.call("GET", KEYS, key=rotated["key"])).status_code == 200
        path = member_path(await staff.user_id())
        # Whatever its role, whoever belongs to the platform is an operator.
        await world.call("PATCH", path, json={"permissions": ["usage:write"]})
        await world.call("PATCH", path, json={"permissions": []})
        assert (await world.call("GET", KEYS, key=rotated["key"])).status_code == 200
        assert (await world.call("DELETE", path)).status_code == 204
    assert (await world.call("GET", KEYS, key=rotated["key"])).status_code == 401
    assert (await world.call("GET", KEYS)).status_code == 200


def test_larger_permissions_contain_what_the_gate_says() -> None:
    assert authority.INCLUDES == IMPLIED


async def test_a_key_makes_and_rotates_none_that_outlives_it(world: World) -> None:
    await world.sign_up("Acme")
    endless = await world.make_key("acme", *ALL)
    (theirs,) = (await world.call("GET", KEYS, key=endless)).json()["items"]
    soon = utc_now() + timedelta(hours=1)
    body = {"name": "ci", "scopes": ALL, "mode": "test", "expires_at": soon.isoformat()}
    answer = await world.call("POST", KEYS, key=endless, json=body)
    assert answer.status_code == 201, answer.text
    short = answer.json()
    assert datetime.fromisoformat(short["expires_at"]) == soon
    later = {"expires_at": (soon + timedelta(days=1)).isoformat()}
    earlier = {"expires_at": (soon - timedelta(minutes=30)).isoformat()}
    for wanted, expected in (({}, soon), (later, soon), (earlier, soon - timedelta(minutes=30))):
        answer = await world.call("POST", KEYS, key=short["key"], json=body | wanted)
        assert datetime.fromisoformat(answer.json()["expires_at"]) == expected
    no_end = {name: value for name, value in body.items() if name != "expires_at"}
    answer = await world.call("POST", KEYS, key=short["key"], json=no_end)
    assert datetime.fromisoformat(answer.json()["expires_at"]) == soon
    # Neither does it take the place of another's, or its own, for longer.
    for rotated in (theirs["id"], short["id"]):
        path, at_once = f"{KEYS}/{rotated}/rotate", {"overlap_seconds": 600}
        answer = await world.call("POST", path, key=short["key"], json=at_once)
        assert answer.status_code == 201, answer.text
        assert datetime.fromisoformat(answer.json()["expires_at"]) == soon
    # What has no end makes what has none.
    fresh = await world.make_key("acme", *ALL)
    answer = await world.call("POST", KEYS, key=fresh, json=no_end)
    assert answer.json()["expires_at"] is None


async def test_keys_end_with_the_key_that_made_them(world: World) -> None:
    acme = await world.sign_up("Acme")
    leaked = await world.make_key("acme", *ALL)
    other = {"key": await world.make_key("acme", *ALL)}
    (shown, _) = (await world.call("GET", KEYS, key=leaked)).json()["items"]
    first = await made_with(world, leaked, *ALL)
    second = await made_with(world, first["key"], *ALL)
    third = await made_with(world, second["key"], "usage:read")
    kept = await made_with(world, other["key"], "usage:read")
    # A link of the chain that ended already hides nothing behind it.
    path = f"{KEYS}/{shown['id']}"
    async with world.database.tenant(UUID(acme["id"]), "test") as tx:
        second_id = parse_public_id("api_key", second["id"])
        await store_keys.end_api_key(tx, second_id, utc_now())
    before = world.snapshot(acme["id"]).version
    answer = await world.call("DELETE", path, key=other["key"], params={"reason": "leaked"})
    assert answer.status_code == 204, answer.text
    for gone in ({"key": leaked}, first, second, third):
        assert not await is_taken(world, gone)
    for stays in (other, kept):
        assert await is_taken(world, stays)
    told = world.snapshot(acme["id"])
    assert told.version == before + 1
    ended = {public_id("api_key", e.key_id) for e in told.api_keys if e.revoked_at is not None}
    assert ended == {shown["id"], first["id"], third["id"]}
    reasons = {
        event.data.object_id: event.data.after
        for event in world.log.events(ConfigurationChanged)
        if event.data.action == "api_key.revoked"
    }
    by_maker = {"reason": REASON_MAKER_REVOKED}
    assert reasons == {
        shown["id"]: {"reason": "leaked"},
        first["id"]: by_maker,
        third["id"]: by_maker,
    }
    # Again: nothing more.
    assert (await world.call("DELETE", path, key=other["key"])).status_code == 204
    assert world.snapshot(acme["id"]).version == before + 1
