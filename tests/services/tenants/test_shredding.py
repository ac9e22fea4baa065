"""A shredded tenant: its secrets are gone in every copy, what must be kept stays."""

from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import DEFAULT_TENANT_ID, TenantSecrets
from libs.crypto.data_keys import DataKeys
from libs.crypto.errors import DestroyedKeyError, SecretGoneError, SecretStoreUnavailableError
from libs.crypto.settings import Sealing
from libs.directory.secrets import Secrets
from libs.testing.databases import TestDatabase
from services.tenants import shredding
from services.tenants.sealing import Place, Sealer
from tests.services.tenants.conftest import World
from tests.services.tenants.sealed_world import connect, holders, sealer_of

PLACE = Place("anything", "at_all", "1")


class StoreInMemory:
    """A secret store outside, as the protocol says; it may be away."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.away = False

    async def put(self, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        reference = f"vault:sluice/{tenant_id}/{secret_id}#1"
        self.kept[reference] = plaintext
        return reference

    async def get(self, reference: str, *, tenant_id: UUID, secret_id: UUID) -> bytes:
        assert f"{tenant_id}/{secret_id}" in reference
        if reference not in self.kept:
            raise SecretGoneError("gone")
        return self.kept[reference]

    async def destroy(self, reference: str) -> None:
        if self.away:
            raise SecretStoreUnavailableError("away")
        if self.kept.pop(reference, None) is None:
            raise SecretGoneError("gone")


async def test_what_was_sealed_cannot_be_opened_again(world: World, database: TestDatabase) -> None:
    tenant_id, other_id = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    sealer = sealer_of(world)
    sealed = (await sealer.prepare(tenant_id, utc_now())).seal(b"personal", PLACE)
    for each in (tenant_id, other_id):
        await connect(world, each, "sk_test_x")
    async with holders(world, database, world.settings.sealing) as held:
        secrets = held["gateway"][1]
        assert len(await secrets.find(tenant_id, "test", "stripe_secret_key")) == 1
        answer = await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "acme"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"tenant_id": str(tenant_id), "data_keys": 1, "secrets": 1}
        assert await secrets.find(tenant_id, "test", "stripe_secret_key", afresh=True) == []
        assert len(await secrets.find(other_id, "test", "stripe_secret_key", afresh=True)) == 1
    with pytest.raises(DestroyedKeyError):
        await sealer.open(tenant_id, sealed.value, PLACE)
    last = [e for e in world.log.events(TenantSecrets) if e.tenant_id == tenant_id][-1].data
    assert (last.secrets, last.data_keys, last.left) == ((), (), True)
    told = [e.data for e in world.log.events(ConfigurationChanged)]
    (entry,) = [each for each in told if each.action == "tenant.shredded"]
    assert entry.after == {"data_keys": 1, "values": 1, "stays": False}
    (connection,) = world.snapshot(tenant_id).connections
    assert connection.status == "REVOKED"
    assert not connection.webhook_token_hashes
    again = await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "acme"})
    assert again.json() == {"tenant_id": str(tenant_id), "data_keys": 0, "secrets": 0}


async def test_a_tenant_that_stays_has_not_left(world: World) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    for stays in (True, False, True):
        body = {"confirm": "acme", "stays": stays}
        answer = await world.call("POST", "/api/v1/tenants/acme/shred", json=body)
        assert answer.status_code == 200, answer.text
        last = [e for e in world.log.events(TenantSecrets) if e.tenant_id == tenant_id][-1]
        assert last.data.left is not stays


async def test_kept_answers_go_too(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme")
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "acme"})
    async with database.admin() as admin:
        count = await admin.fetchval(
            "select count(*) from tenants.idempotency_key where answer::text like '%sealed%'"
        )
    assert count == 0
    again = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert again.status_code == 201


async def test_it_must_be_confirmed(world: World) -> None:
    await world.sign_up("Acme")
    answer = await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "globex"})
    assert answer.status_code == 422
    for reference in ("platform", str(DEFAULT_TENANT_ID)):
        body = {"confirm": "platform"}
        answer = await world.call("POST", f"/api/v1/tenants/{reference}/shred", json=body)
        assert answer.status_code == 409
        assert answer.json()["code"] == "tenant_reserved"


async def test_secrets_in_a_store_outside_are_deleted_there(
    world: World, database: TestDatabase
) -> None:
    store = StoreInMemory()
    sealing = Sealing(DataKeys(world.settings.sealing.data_keys.master_keys), store)
    world.settings.__dict__["sealing"] = sealing
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    await connect(world, tenant_id, "sk_test_outside")
    assert list(store.kept.values()) == [b"sk_test_outside"]
    async with holders(world, database, sealing) as held:
        fresh = Secrets(held["stripe_sync"][0], sealing)
        (found,) = await fresh.find(tenant_id, "test", "stripe_secret_key")
        assert found.value == b"sk_test_outside"
    await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "acme"})
    sealer = Sealer(world.database, sealing)
    store.away = True
    with pytest.raises(SecretStoreUnavailableError):
        await shredding.destroy_outside(world.database, sealer)
    store.away = False
    await shredding.destroy_outside(world.database, sealer)
    assert store.kept == {}
    await shredding.destroy_outside(world.database, sealer)
