"""Values of tenants are sealed under counted data keys, and no key service is asked in a transaction."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.crypto.data_keys import DataKeys
from libs.crypto.errors import MasterKeyUnavailableError, SealedValueError
from libs.crypto.keyring import Keyring
from libs.crypto.sealed import DATA_KEY_AGE_DAYS_MAX, DATA_KEY_USES_MAX, header_of
from libs.crypto.settings import Sealing
from libs.crypto.vaults.local import LocalMasterKeys
from libs.db.pool import Database, Tx
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.tenants.sealing import Kept, Place, Sealer
from tests.services.tenants.conftest import World
from tests.services.tenants.sealed_world import sealer_of

PLACE = Place("table", "field", "row")


async def tenant_of(world: World, name: str = "Acme") -> UUID:
    return UUID((await world.sign_up(name))["id"])


async def uses(database: TestDatabase, tenant_id: UUID) -> list[int]:
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select uses from tenants.data_key where tenant_id = $1 order by created_at", tenant_id
        )
    return [row["uses"] for row in rows]


async def test_each_value_is_counted_before_it_is_sealed(
    world: World, database: TestDatabase
) -> None:
    tenant_id = await tenant_of(world)
    key = await sealer_of(world).prepare(tenant_id, utc_now(), values=3)
    assert await uses(database, tenant_id) == [3]
    for _ in range(3):
        key.seal(b"x", PLACE)
    with pytest.raises(AssertionError):
        key.seal(b"x", PLACE)


async def test_a_spent_or_old_key_is_replaced_and_still_opens(
    world: World, database: TestDatabase
) -> None:
    tenant_id = await tenant_of(world)
    sealer = sealer_of(world)
    first = (await sealer.prepare(tenant_id, utc_now())).seal(b"first", PLACE)
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.data_key set uses = $2 where tenant_id = $1",
            tenant_id,
            DATA_KEY_USES_MAX - 1,
        )
    second = (await sealer.prepare(tenant_id, utc_now(), values=2)).seal(b"second", PLACE)
    assert second.data_key_id != first.data_key_id
    later = utc_now() + timedelta(days=DATA_KEY_AGE_DAYS_MAX)
    third = (await sealer.prepare(tenant_id, later)).seal(b"third", PLACE)
    assert third.data_key_id not in (first.data_key_id, second.data_key_id)
    for sealed, value in ((first, b"first"), (second, b"second"), (third, b"third")):
        assert await sealer.open(tenant_id, sealed.value, PLACE) == value


async def test_many_at_once_make_one_key_and_count_right(
    world: World, database: TestDatabase
) -> None:
    tenant_id = await tenant_of(world)
    sealer = sealer_of(world)
    await asyncio.gather(*(sealer.prepare(tenant_id, utc_now()) for _ in range(20)))
    assert await uses(database, tenant_id) == [20]


async def test_a_value_of_another_tenant_or_place_does_not_open(world: World) -> None:
    acme, globex = await tenant_of(world), await tenant_of(world, "Globex")
    sealer = sealer_of(world)
    value = (await sealer.prepare(acme, utc_now())).seal(b"x", PLACE).value
    await sealer.prepare(globex, utc_now())
    with pytest.raises(SealedValueError):
        await sealer.open(globex, value, PLACE)

    @given(st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)))
    @settings(
        max_examples=50, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
    )
    def moved(parts: tuple[str, str, str]) -> None:
        place = Place(*parts)
        if place != PLACE:
            places.append(place)

    places: list[Place] = []
    moved()
    places += [Place("tablef", "ield", "row"), Place("table", "fieldr", "ow")]
    for place in places:
        with pytest.raises(SealedValueError):
            await sealer.open(acme, value, place)
    assert header_of(value).data_key_id


class Watched(LocalMasterKeys):
    """Master keys that refuse to be asked while a transaction is open, or when they are away."""

    def __init__(self) -> None:
        keyring = Keyring({"k1": b"m" * 32}, "k1")
        super().__init__(lambda: keyring)
        self.open_transactions = 0
        self.asked = 0
        self.away = False

    def _look(self) -> None:
        assert self.open_transactions == 0, "a key service is asked inside a transaction"
        self.asked += 1
        if self.away:
            raise MasterKeyUnavailableError("away")

    async def wrap(self, key: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        self._look()
        return await super().wrap(key, tenant_id=tenant_id, data_key_id=data_key_id)

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        self._look()
        return await super().unwrap(wrapped, tenant_id=tenant_id, data_key_id=data_key_id)


@pytest.fixture
def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The service's master keys, watched."""
    keys = Watched()
    world.settings.__dict__["sealing"] = Sealing(DataKeys(keys))
    transaction = Database.transaction

    @asynccontextmanager
    async def counted(self: Database, *args: Any, **kwargs: Any) -> AsyncGenerator[Tx, None]:
        async with transaction(self, *args, **kwargs) as tx:
            keys.open_transactions += 1
            try:
                yield tx
            finally:
                keys.open_transactions -= 1

    monkeypatch.setattr(Database, "transaction", counted)
    return keys


async def test_no_key_service_is_asked_inside_a_transaction(world: World, watched: Watched) -> None:
    await tenant_of(world)
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    made = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    watched_before = watched.asked
    world.settings.__dict__["sealing"] = Sealing(DataKeys(watched))
    again = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert again.json()["key"] == made.json()["key"]
    assert watched.asked > watched_before > 0


async def test_a_key_service_that_is_away_fails_closed(
    world: World, watched: Watched, database: TestDatabase
) -> None:
    await tenant_of(world)
    watched.away = True
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    refused = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert refused.status_code == 503
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from tenants.idempotency_key") == 0
    watched.away = False
    made = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert made.status_code == 201


async def test_a_sealer_without_a_store_says_so(world: World) -> None:
    tenant_id = await tenant_of(world)
    sealer = Sealer(world.database, world.settings.sealing)
    with pytest.raises(SealedValueError, match="not configured"):
        await sealer.read(tenant_id, new_id(), Kept(None, None, "vault:a/b/c#1"), PLACE)
