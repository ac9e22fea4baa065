"""Last used: noted in memory, told at most once a minute, the latest kept."""

from datetime import datetime, timedelta

import pytest

from libs.clock import utc_now
from libs.contracts.audit import KeyUsed
from libs.db.pool import open_database
from libs.ids import new_id
from libs.messaging import key_use as key_uses
from libs.messaging.key_use import KeyUses
from services.tenants import key_use
from tenants.conftest import World

KEYS = "/api/v1/api-keys"
OF_ACME = {"X-Tenant-ID": "acme"}


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> KeyUses:
    """The uses of this test alone."""
    uses = KeyUses()
    monkeypatch.setattr("libs.web.auth.KEY_USES", uses)
    return uses


async def test_a_use_is_told_and_shown(world: World, uses: KeyUses) -> None:
    acme = await world.sign_up("Acme")
    key = await world.make_key("acme", "usage:write")
    (item,) = (await world.call("GET", KEYS, headers=OF_ACME)).json()["items"]
    assert item["last_used_at"] is None
    before = utc_now()
    for _ in range(3):
        await world.call("GET", "/api/v1/tenants/acme/status", key=key)
    await uses.tell(world.database)
    await uses.tell(world.database)
    await world.settle()
    told = [e for e in world.log.events(KeyUsed) if str(e.tenant_id) == acme["id"]]
    assert [(e.data.service, e.mode) for e in told] == [("tenants", "test")]
    (item,) = (await world.call("GET", KEYS, headers=OF_ACME)).json()["items"]
    assert before < datetime.fromisoformat(item["last_used_at"]) <= utc_now()


async def test_a_refused_key_is_not_used(world: World, uses: KeyUses) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "usage:write")
    (item,) = (await world.call("GET", KEYS, headers=OF_ACME)).json()["items"]
    await uses.tell(world.database)
    await world.call("DELETE", f"{KEYS}/{item['id']}", headers=OF_ACME)
    assert (await world.call("GET", "/api/v1/tenants/acme", key=key)).status_code == 401
    forged = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert (await world.call("GET", "/api/v1/tenants/acme", key=forged)).status_code == 401
    assert [used.object_id for used, _ in uses.due(utc_now())] == []


async def test_only_a_later_use_counts(world: World) -> None:
    acme = await world.sign_up("Acme")
    connection_id, now = str(new_id()), utc_now()
    for service, seconds, version in (
        ("gateway", 10, 1),
        ("gateway", 5, 1),
        ("stripe_sync", 7, 1),
        ("gateway", 2, 2),
    ):
        used = KeyUsed(
            kind="stripe_secret_key",
            object_id=connection_id,
            version=version,
            service=service,
            used_at=now + timedelta(seconds=seconds),
        )
        world.tell(acme["id"], used, source=service)
        await world.settle()
    async with world.database.tenant(acme["id"], None) as tx:
        rows = await key_use.uses_of(tx, "stripe_secret_key", connection_id)
    assert [(row["version"], row["used_at"] - now) for row in rows] == [
        (2, timedelta(seconds=2)),
        (1, timedelta(seconds=10)),
    ]
    globex = await world.sign_up("Globex")
    async with world.database.tenant(globex["id"], None) as tx:
        assert await key_use.uses_of(tx, "stripe_secret_key", connection_id) == []


async def test_a_key_is_told_once_a_minute_and_forgotten_when_it_rests(world: World) -> None:
    uses, key_id, tenant_id = KeyUses(), new_id(), new_id()
    uses.note(tenant_id, "test", "api_key", key_id)
    now = utc_now()
    assert len(uses.due(now)) == 1
    await uses.tell(world.database)
    uses.note(tenant_id, "test", "api_key", key_id)
    assert uses.due(now + timedelta(seconds=30)) == []
    assert len(uses.due(now + timedelta(seconds=62))) == 1
    assert uses.due(now + timedelta(hours=1)) != []
    later = KeyUses()
    later.note(tenant_id, "test", "api_key", key_id)
    await later.tell(world.database)
    assert later.due(now + timedelta(hours=1)) == []
    assert later._uses == {}


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_uses, "NOTED_MAX", 3)
    uses = KeyUses()
    for _ in range(10):
        uses.note(new_id(), "test", "api_key", new_id())
    assert len(uses.due(utc_now())) == 3


async def test_what_cannot_be_committed_stays_due() -> None:
    uses = KeyUses()
    uses.note(new_id(), "live", "api_key", new_id())
    nowhere = await open_database("postgresql://nobody@127.0.0.1:1/none", "tenants")
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await uses.tell(nowhere)
    assert len(uses.due(utc_now())) == 1
