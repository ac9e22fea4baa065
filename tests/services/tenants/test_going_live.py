"""Going live: a checklist, an owner's step, and live mode closed before it."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged, KeyUsed, SecurityEventRaised
from libs.contracts.billing import SubscriptionChanged
from libs.contracts.tenants import DEFAULT_TENANT_ID, PLATFORM_TENANT_ID, TenantWentLive
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import EPOCH
from services.tenants import snapshot
from services.tenants.going_live import ITEM_KEYS
from tenants.conftest import World, checksums
from tenants.test_sessions import add_person, assertion, sign_in

LIVE = "/api/v1/tenants/acme/live"


async def owner_of(world: World, slug: str) -> str:
    """An assertion of the tenant's owner."""
    await add_person(world, f"owner@{slug}.example", **{slug: "owner"})
    await sign_in(world, f"owner@{slug}.example")
    token: str = (await assertion(world)).json()["assertion"]
    return token


async def connect(world: World, tenant_id: str, **columns: Any) -> UUID:
    """A live connection of the tenant, as its own routes would leave it."""
    connection_id = new_id()
    values: dict[str, Any] = {
        "tenant_id": UUID(tenant_id),
        "mode": "live",
        "connection_id": connection_id,
        "kind": "CONNECT_STANDARD",
        "status": "CONNECTED",
        "account_id": "acct_acme",
        "charges_enabled": True,
        "created_by": "test",
        "created_at": utc_now(),
        "updated_at": utc_now(),
    } | columns
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    async with world.database.tenant(UUID(tenant_id), "live") as tx:
        await tx.execute("delete from stripe_connection where tenant_id = $1", UUID(tenant_id))
        await tx.execute(
            f"insert into stripe_connection ({names}) values ({places})",
            *values.values(),
        )
        await snapshot.publish(tx, utc_now())
    await world.settle()
    return connection_id


async def open_items(world: World) -> list[str]:
    body = (await world.call("GET", LIVE)).json()
    assert body["ready"] == all(item["to_do"] is None for item in body["items"])
    return [item["key"] for item in body["items"] if item["to_do"] is not None]


async def buy(world: World, acme: dict[str, Any], plan: str) -> None:
    """The platform tells that the tenant's test subscription is on a plan."""
    world.tell(
        acme["id"],
        SubscriptionChanged(
            subscription_id=new_id(),
            version=1,
            customer_id=UUID(acme["self_customer_id"].partition("_")[2]),
            billed_by="platform",
            plan_key=plan,
            plan_version_id=new_id(),
            status="active",
            collection="stripe",
            currency="EUR",
            period_from=EPOCH,
            period_to=EPOCH + timedelta(days=31),
        ),
    )
    await world.settle()


async def test_the_checklist_follows_what_is_done(world: World) -> None:
    acme = await world.sign_up("Acme")
    assert await open_items(world) == list(ITEM_KEYS)
    await connect(world, acme["id"], charges_enabled=False)
    assert await open_items(world) == list(ITEM_KEYS[1:])
    for broken in ({"status": "REVOKED"}, {"is_active": False}, {"key_valid": False}):
        await connect(world, acme["id"], **broken)
        assert await open_items(world) == list(ITEM_KEYS)
    connection_id = await connect(world, acme["id"])
    assert await open_items(world) == list(ITEM_KEYS[2:])
    world.tell(
        acme["id"],
        KeyUsed(
            kind="stripe_webhook_secret",
            object_id=str(connection_id),
            version=1,
            service="gateway",
            used_at=utc_now(),
        ),
        mode="live",
        source="gateway",
    )
    await world.settle()
    assert await open_items(world) == ["plan_chosen", "tax_region_set"]
    await buy(world, acme, "free")
    assert await open_items(world) == ["plan_chosen", "tax_region_set"]
    await buy(world, acme, "pro")
    assert await open_items(world) == ["tax_region_set"]
    async with world.database.tenant(UUID(acme["id"]), None) as tx:
        await tx.execute("update tenant set tax_region = 'DE'")
    assert await open_items(world) == []
    answer = await world.call("POST", LIVE, key=await owner_of(world, "acme"), json={})
    assert (answer.status_code, answer.json()["live"]) == (200, True)
    (told,) = [e for e in world.log.events(TenantWentLive) if str(e.tenant_id) == acme["id"]]
    assert (told.mode, told.data.slug) == ("live", "acme")
    assert f"cus_{told.data.self_customer_id}" == acme["self_customer_id"]


async def test_an_owner_does_not_go_live_before_everything_is_done(world: World) -> None:
    acme = await world.sign_up("Acme")
    owner = await owner_of(world, "acme")
    answer = await world.call("POST", LIVE, key=owner, json={"confirm_free_plan": True})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "not_ready_to_go_live")
    assert problem["open_items"] == [key for key in ITEM_KEYS if key != "plan_chosen"]
    waived = {"waive": [{"item": key, "reason": "I am in a hurry"} for key in ITEM_KEYS]}
    answer = await world.call("POST", LIVE, key=owner, json=waived)
    assert (answer.status_code, answer.json()["permission"]) == (403, "operator")
    assert world.snapshot(acme["id"]).live_since is None
    assert not [e for e in world.log.events(TenantWentLive) if str(e.tenant_id) == acme["id"]]


async def test_only_owners_and_operators_go_live(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage", "billing:manage", "tenants:read")
    await add_person(world, "admin@acme.example", acme="admin")
    await sign_in(world, "admin@acme.example")
    admin = (await assertion(world)).json()["assertion"]
    for caller in (key, admin):
        answer = await world.call("POST", LIVE, key=caller, json={})
        assert (answer.status_code, answer.json()["permission"]) == (403, "owner")
        assert (await world.call("GET", LIVE, key=caller)).status_code == 200
    denied = [
        e.data.permission
        for e in world.log.events(SecurityEventRaised)
        if e.data.kind == "permission_denied"
    ]
    assert denied == ["owner", "owner"]


BAD_BODIES: list[Any] = [
    {"waive": [{"item": "everything", "reason": "x"}]},
    {"waive": [{"item": "plan_chosen"}]},
    {"waive": [{"item": "plan_chosen", "reason": ""}]},
    {"waive": [{"item": "plan_chosen", "reason": "a\x00"}]},
    {"waive": [{"item": "plan_chosen", "reason": "a"}, {"item": "plan_chosen", "reason": "b"}]},
    {"live_since": "2020-01-01T00:00:00Z"},
    [],
]


async def test_a_bad_body_opens_nothing(world: World) -> None:
    acme = await world.sign_up("Acme")
    for body in BAD_BODIES:
        assert (await world.call("POST", LIVE, json=body)).status_code == 422, body
    assert (await world.call("POST", "/api/v1/tenants/nobody/live", json={})).status_code == 404
    assert world.snapshot(acme["id"]).live_since is None


async def test_what_an_operator_waives_stands_in_the_log(world: World) -> None:
    acme = await world.sign_up("Acme")
    before = world.snapshot(acme["id"]).version
    await world.go_live("acme")
    record = world.snapshot(acme["id"])
    assert record.live_since is not None
    assert record.version == before + 1
    (change,) = [
        e.data
        for e in world.log.events(ConfigurationChanged)
        if e.data.action == "tenant.went_live" and e.data.object_id == acme["id"]
    ]
    assert change.after is not None
    assert {name for name in change.after if name.startswith("waived_")} == {
        f"waived_{key}" for key in ITEM_KEYS
    }
    body = (await world.call("GET", LIVE)).json()
    assert (body["live"], {item["waived"] for item in body["items"]}) == (True, {"a test"})
    again = await world.call("POST", LIVE, json={})
    assert again.status_code == 200
    assert again.json()["live_since"] == body["live_since"]
    assert world.snapshot(acme["id"]).version == before + 1


async def test_no_live_key_before_going_live(world: World) -> None:
    await world.sign_up("Acme")
    body = {"tenant": "acme", "name": "shop", "scopes": ["usage:write"], "mode": "live"}
    answer = await world.call("POST", "/api/v1/api-keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_live")
    await world.go_live("acme")
    answer = await world.call("POST", "/api/v1/api-keys", json=body)
    assert answer.status_code == 201
    for slug in ("platform", "default"):
        answer = await world.call("POST", "/api/v1/api-keys", json=body | {"tenant": slug})
        assert answer.status_code == 201


async def test_the_reserved_tenants_are_live_from_the_start(world: World) -> None:
    told = [event.tenant_id for event in world.log.events(TenantWentLive)]
    assert sorted(told) == sorted((PLATFORM_TENANT_ID, DEFAULT_TENANT_ID))
    for tenant_id in told:
        assert world.snapshot(tenant_id).live_since is not None


async def test_two_steps_at_once_are_one(world: World) -> None:
    acme = await world.sign_up("Acme")
    body = {"waive": [{"item": item, "reason": "a test"} for item in ITEM_KEYS]}
    headers = {"Authorization": f"Bearer {world.operator}"}

    answers = await asyncio.gather(
        *(world.client.post(LIVE, json=body, headers=headers) for _ in range(3))
    )
    assert {answer.status_code for answer in answers} == {200}
    await world.settle()
    told = [e for e in world.log.events(TenantWentLive) if str(e.tenant_id) == acme["id"]]
    assert len(told) == 1


@pytest.mark.parametrize("clear_inboxes", [False, True])
async def test_a_replay_changes_nothing(
    world: World, database: TestDatabase, *, clear_inboxes: bool
) -> None:
    acme = await world.sign_up("Acme")
    used = {"kind": "stripe_webhook_secret", "object_id": str(new_id()), "service": "gateway"}
    for minutes, version in ((3, 1), (1, 1), (2, 2)):
        at = utc_now() - timedelta(minutes=minutes)
        world.tell(acme["id"], KeyUsed(**used, version=version, used_at=at), source="gateway")
    await world.go_live("acme")
    before = await checksums(database)
    await world.log.replay(clear_inboxes=clear_inboxes)
    assert await checksums(database) == before
