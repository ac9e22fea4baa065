"""The audit log: one chain per tenant, searchable, and tampering shows."""

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from libs.contracts.audit import AuditHeadAnchored
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto.audit_chain import GENESIS, Head, entry_hash
from libs.db.tenant import Scope
from libs.testing.databases import TestDatabase
from services.tenants import audit, audit_export, jobs
from tenants.conftest import World, checksums


async def entries(world: World, tenant: str, **query: Any) -> list[dict[str, Any]]:
    answer = await world.call(
        "GET", "/api/v1/audit-log", headers={"X-Tenant-ID": tenant}, params=query
    )
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def broken(world: World, tenant_id: str) -> int | None:
    found = await audit.verify(world.database, UUID(tenant_id))
    return found.broken.seq if found.broken else None


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
    ("update tenants.audit_entry set actor = 'somebody' where seq = 2", 2),
    ("update tenants.audit_entry set occurred_at = occurred_at + interval '1s' where seq = 1", 1),
    ("delete from tenants.audit_entry where seq = 1", 1),
    ("delete from tenants.audit_entry where seq >= 2", 2),
)


async def test_tampering_shows(world: World, database: TestDatabase) -> None:
    for number, (tampering, first) in enumerate(TAMPERINGS):
        acme = await world.sign_up(f"Acme {number}")
        await world.make_key(acme["slug"], "usage:read")
        await jobs.anchor_audit(world.database, world.settings)
        await world.settle()
        assert await broken(world, acme["id"]) is None
        async with database.admin() as admin:
            await admin.execute(f"{tampering} and tenant_id = '{acme['id']}'")
        assert await broken(world, acme["id"]) == first
        answer = await world.call(
            "GET", "/api/v1/audit-log/verification", headers={"X-Tenant-ID": acme["slug"]}
        )
        assert answer.json()["holds"] is False
        assert answer.json()["first_broken_seq"] == first


async def test_an_end_cut_off_stays_a_gap_when_the_log_goes_on(
    world: World, database: TestDatabase
) -> None:
    acme = await world.sign_up("Acme")
    await world.make_key("acme", "usage:read")
    last = (await entries(world, "acme"))[0]["seq"]
    async with database.admin() as admin:
        await admin.execute(
            "delete from tenants.audit_entry where tenant_id = $1 and seq = $2",
            UUID(acme["id"]),
            last,
        )
    await world.make_key("acme", "usage:read")
    assert await broken(world, acme["id"]) == last


async def test_a_head_is_signed_once_and_told(world: World) -> None:
    acme = await world.sign_up("Acme")
    for _ in range(2):
        await jobs.anchor_audit(world.database, world.settings)
        await world.settle()
    (told,) = [
        event for event in world.log.events(AuditHeadAnchored) if str(event.tenant_id) == acme["id"]
    ]
    platform = world.snapshot(PLATFORM_TENANT_ID)
    keys = {key.key_id: key.public_key for key in platform.assertion_keys}
    head = Head(
        told.tenant_id, told.data.seq, bytes.fromhex(told.data.head_hash), told.data.anchored_at
    )
    signature = bytes.fromhex(told.data.signature)
    assert head.is_signed(signature, told.data.key_id, keys)
    for other in (
        replace(head, seq=head.seq + 1),
        replace(head, hash=bytes(32)),
        replace(head, tenant_id=PLATFORM_TENANT_ID),
        replace(head, at=head.at + timedelta(seconds=1)),
    ):
        assert not other.is_signed(signature, told.data.key_id, keys)
    found = await audit.verify(world.database, told.tenant_id)
    assert (found.broken, found.proven_seq, found.forged_heads) == (None, told.data.seq, 0)


async def test_a_chain_made_anew_differs_from_its_signed_head(
    world: World, database: TestDatabase
) -> None:
    """Whoever may write the database, and knows how the chain is made, still lacks the key."""
    acme = await world.sign_up("Acme")
    await world.make_key("acme", "usage:read")
    await jobs.anchor_audit(world.database, world.settings)
    await world.settle()
    async with database.admin() as admin:
        previous = GENESIS
        for row in await admin.fetch(
            "select seq, content from tenants.audit_entry where tenant_id = $1 order by seq",
            UUID(acme["id"]),
        ):
            content = json.loads(row["content"])
            content["data"]["actor"] = "somebody"
            hashed = entry_hash(previous, content)
            await admin.execute(
                "update tenants.audit_entry set content = $3, actor = 'somebody', "
                "previous_hash = $4, hash = $5 where tenant_id = $1 and seq = $2",
                UUID(acme["id"]),
                row["seq"],
                json.dumps(content),
                previous,
                hashed,
            )
            previous = hashed
    found = await audit.verify(world.database, UUID(acme["id"]))
    assert found.broken is not None
    assert found.broken.seq == 1
    assert "rewritten" in found.broken.reason


@pytest.mark.parametrize(
    "sql",
    [
        "update audit_entry set actor = 'x'",
        "delete from audit_entry",
        "truncate audit_entry",
        "update audit_anchor set seq = 1",
        "delete from audit_anchor",
        "truncate audit_anchor",
    ],
)
async def test_the_service_and_its_maintenance_can_only_add(world: World, sql: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.transaction(Scope((PLATFORM_TENANT_ID,), None)) as tx:
            await tx.execute(sql)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.maintenance() as tx:
            await tx.execute(sql)


async def test_every_change_says_where_it_came_from(world: World) -> None:
    await world.sign_up("Acme")
    headers = {"X-Tenant-ID": "acme", "X-Forwarded-For": "198.51.100.7, 203.0.113.9"}
    await world.call("GET", "/api/v1/tenants/acme", headers=headers)
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:read"], "mode": "test"}
    await world.call("POST", "/api/v1/api-keys", headers=headers, json=body)
    for action in ("api_key.created", "operator_access"):
        found = await entries(world, "acme", action=action)
        assert "203.0.113.9" in {item["data"]["remote_address"] for item in found}


async def test_the_log_is_searched_by_everything_it_shows(world: World) -> None:
    await world.sign_up("Acme")
    for name in ("alpha", "beta"):
        body = {"tenant": "acme", "name": name, "scopes": ["usage:read"], "mode": "test"}
        await world.call("POST", "/api/v1/api-keys", json=body)
    (beta,) = await entries(world, "acme", text="BETA")
    assert beta["action"] == "api_key.created"
    assert len(await entries(world, "acme", action="api_key.")) == 2
    assert len(await entries(world, "acme", object_id="key_")) == 2
    assert await entries(world, "acme", object_id=beta["object_id"]) == [beta]
    assert await entries(world, "acme", occurred_to="2020-01-01T00:00:00Z") == []
    assert len(await entries(world, "acme", kind="security", text="%")) == 0
    every = await entries(world, "acme", occurred_from="2020-01-01T00:00:00Z")
    assert {item["actor"] for item in await entries(world, "acme", actor=beta["actor"])} == {
        beta["actor"]
    }
    assert beta in every
    for odd in ({"text": ""}, {"text": "x" * 201}, {"kind": "other"}, {"occurred_from": "now"}):
        answer = await world.call(
            "GET", "/api/v1/audit-log", headers={"X-Tenant-ID": "acme"}, params=odd
        )
        assert answer.status_code == 422, answer.text


async def test_the_log_leaves_as_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.sign_up("Acme")
    for name in ("=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", 'plain, "quoted"'):
        body = {"tenant": "acme", "name": name, "scopes": ["usage:read"], "mode": "test"}
        await world.call("POST", "/api/v1/api-keys", json=body)
    headers = {"X-Tenant-ID": "acme"}
    path = "/api/v1/audit-log/export"
    answer = await world.call("GET", path, headers=headers, params={"action": "api_key.created"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["after"]["name"] for line in lines][:2] == ["=cmd|' /C calc'!A0", "@SUM(1)"]
    assert answer.headers["content-type"].startswith("application/jsonl")

    answer = await world.call("GET", path, headers=headers, params={"format": "csv"})
    assert answer.headers["content-disposition"] == 'attachment; filename="audit-log-acme.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["seq"]) for row in rows] == list(range(1, len(rows) + 1))
    assert "Sluice-Next-After" not in answer.headers
    for row in rows:
        assert not any((cell or "").startswith(("=", "+", "-", "@")) for cell in row.values())

    monkeypatch.setattr(audit, "EXPORTED_ENTRIES_MAX", 2)
    answer = await world.call("GET", path, headers=headers)
    assert [json.loads(line)["seq"] for line in answer.text.splitlines()] == [1, 2]
    after = answer.headers["sluice-next-after"]
    answer = await world.call("GET", path, headers=headers, params={"after": after})
    assert [json.loads(line)["seq"] for line in answer.text.splitlines()] == [3, 4]


def test_no_cell_is_a_formula() -> None:
    for start in ("=1", "+1", "-1", "@a", "\t=1", "\r=1", "\uff1d1"):
        assert audit_export._cell(start) == f"'{start}"
    assert audit_export._cell("plain") == "plain"


async def test_the_log_is_for_those_who_manage_members(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "billing:manage")
    for path in ("", "/export", "/verification"):
        answer = await world.call("GET", f"/api/v1/audit-log{path}", key=key)
        assert answer.status_code == 403
    key = await world.make_key("acme", "members:manage")
    for path in ("", "/export", "/verification"):
        answer = await world.call("GET", f"/api/v1/audit-log{path}", key=key)
        assert answer.status_code == 200


async def test_replaying_signed_heads_changes_nothing(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme")
    await jobs.anchor_audit(world.database, world.settings)
    await world.settle()
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before
