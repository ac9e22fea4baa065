"""The audit log: one chain per tenant, searchable, and tampering shows."""

from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from libs.db.tenant import Scope
from libs.testing.databases import TestDatabase
from services.tenants import audit
from tenants.conftest import World


async def entries(world: World, tenant: str, **query: Any) -> list[dict[str, Any]]:
    answer = await world.call(
        "GET", "/api/v1/audit-log", headers={"X-Tenant-ID": tenant}, params=query
    )
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def broken(world: World, tenant_id: str) -> int | None:
    async with world.database.tenant(tenant_id, None) as tx:  # type: ignore[arg-type]
        return await audit.first_broken_entry(tx)


async def test_changes_and_refusals_stand_in_the_tenants_chain(world: World) -> None:
    acme = await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage")
    await world.call("GET", "/api/v1/tenants/acme", key=key)
    found = await entries(world, "acme")
    assert [item["seq"] for item in found] == list(range(len(found), 0, -1))
    for newer, older in pairwise(found):
        assert newer["previous_hash"] == older["hash"]
    assert found[-1]["previous_hash"] == "0" * 64
    assert {item["action"] for item in found} >= {
        "tenant.created",
        "api_key.created",
        "permission_denied",
        "operator_access",
    }
    (denied,) = await entries(world, "acme", action="permission_denied", kind="security")
    assert denied["data"]["permission"] == "tenants:read"
    assert await entries(world, "acme", actor="nobody") == []
    assert await broken(world, acme["id"]) is None
    assert key not in str(found)


async def test_pages_follow_each_other(world: World) -> None:
    await world.sign_up("Acme")
    for _ in range(4):
        await world.make_key("acme", "usage:read")
    headers = {"X-Tenant-ID": "acme"}
    page = (
        await world.call("GET", "/api/v1/audit-log", headers=headers, params={"limit": 3})
    ).json()
    query = {"limit": 3, "cursor": page["next_cursor"]}
    after = (await world.call("GET", "/api/v1/audit-log", headers=headers, params=query)).json()
    assert after["items"][0]["seq"] == page["items"][-1]["seq"] - 1
    for odd in ("x", "WyJ4Il0"):
        answer = await world.call(
            "GET", "/api/v1/audit-log", headers=headers, params={"cursor": odd}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


TAMPERINGS = (
    ('update tenants.audit_entry set content = content || \'{"actor": "x"}\' where seq = 2', 2),
    ("update tenants.audit_entry set hash = sha256(hash) where seq = 2", 2),
    ("delete from tenants.audit_entry where seq = 1", 1),
)


async def test_tampering_shows(world: World, database: TestDatabase) -> None:
    for number, (tampering, first) in enumerate(TAMPERINGS):
        acme = await world.sign_up(f"Acme {number}")
        await world.make_key(acme["slug"], "usage:read")
        assert await broken(world, acme["id"]) is None
        async with database.admin() as admin:
            await admin.execute(f"{tampering} and tenant_id = '{acme['id']}'")
        assert await broken(world, acme["id"]) == first


async def test_the_service_can_only_add(world: World) -> None:
    acme = await world.sign_up("Acme")
    for sql in ("update audit_entry set actor = 'x'", "delete from audit_entry"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with world.database.transaction(Scope((acme["id"],), None)) as tx:
                await tx.execute(sql)
