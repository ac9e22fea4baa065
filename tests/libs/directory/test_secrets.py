"""What a holder of secrets opens, keeps in memory, and drops."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from libs.contracts.audit import SecretsHeld
from libs.contracts.envelope import wrap
from libs.contracts.tenants import SecretRecord, TenantSecrets, WrappedKeyRecord
from libs.crypto.data_keys import DataKeys
from libs.crypto.errors import (
    DestroyedKeyError,
    MasterKeyUnavailableError,
    SealedValueError,
    TamperedSealedValueError,
)
from libs.crypto.keyring import Keyring
from libs.crypto.sealed import OpenDataKey, seal
from libs.crypto.settings import Sealing
from libs.crypto.vaults.local import LocalMasterKeys
from libs.db.pool import Database
from libs.directory import secrets as held
from libs.directory.arrivals import Arrivals
from libs.directory.secrets import Secrets
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import EPOCH, MemoryLog

ACME, GLOBEX = UUID(int=1 << 64), UUID(int=2 << 64)
KEYRING = Keyring({"k1": b"k" * 32}, "k1")
NAME = "stripe_secret_key"


class Holder(LocalMasterKeys):
    """Master keys that may be away, and count what they are asked."""

    def __init__(self) -> None:
        super().__init__(lambda: KEYRING)
        self.away = False
        self.asked = 0

    async def unwrap(self, wrapped: bytes, *, tenant_id: UUID, data_key_id: UUID) -> bytes:
        self.asked += 1
        if self.away:
            raise MasterKeyUnavailableError("away")
        return await super().unwrap(wrapped, tenant_id=tenant_id, data_key_id=data_key_id)


@dataclass
class World:
    """A gateway that holds secrets, and clocks that are set."""

    log: MemoryLog
    database: Database
    holder: Holder
    maker: DataKeys
    clock: float = 1_000.0
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    keys: dict[UUID, OpenDataKey] = field(default_factory=dict)
    secrets: Secrets = field(init=False)

    def __post_init__(self) -> None:
        data_keys = DataKeys(self.holder, clock=lambda: self.clock)
        sealing = Sealing(data_keys)
        self.secrets = Secrets(
            self.database, sealing, clock=lambda: self.clock, now=lambda: self.now
        )

    async def record(
        self,
        tenant_id: UUID,
        value: bytes,
        version: int,
        *,
        valid_until: datetime | None = None,
        sealed_for: UUID | None = None,
    ) -> SecretRecord:
        """A version of a secret, sealed for its place (or for another tenant's)."""
        owner = sealed_for or tenant_id
        if owner not in self.keys:
            self.keys[owner] = await self.maker.create(owner, EPOCH)
        secret_id = uuid4()
        sealed = seal(
            value,
            key=self.keys[owner],
            tenant_id=owner,
            table="connection_secret",
            field="value",
            row_id=str(secret_id),
        )
        return SecretRecord(
            secret_id=secret_id,
            connection_id=UUID(int=7),
            mode="test",
            name=NAME,
            version=version,
            valid_until=valid_until,
            sealed=base64.b64encode(sealed).decode(),
        )

    async def tell(self, tenant_id: UUID, version: int, *secrets: SecretRecord) -> None:
        keys = tuple(
            WrappedKeyRecord(
                data_key_id=key.data_key.id,
                wrapped=base64.b64encode(key.data_key.wrapped).decode(),
            )
            for key in self.keys.values()
        )
        told = TenantSecrets(version=version, secrets=secrets, data_keys=keys)
        event = wrap(told, tenant_id=tenant_id, mode=None, source="tenants", effective_at=EPOCH)
        self.log.publish(event)
        await self.log.settle()

    async def values(self, tenant_id: UUID = ACME, *, afresh: bool = False) -> list[bytes]:
        found = await self.secrets.find(tenant_id, "test", NAME, afresh=afresh)
        return [each.value for each in found]


@pytest.fixture
async def world(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[World, None]:
    async with database.open("gateway") as opened:
        log.add(opened, {}, parks=False)
        yield World(log, opened, Holder(), DataKeys(LocalMasterKeys(lambda: KEYRING)))


async def test_the_current_one_comes_first_and_the_previous_one_ends(world: World) -> None:
    end = world.now + timedelta(hours=1)
    await world.tell(
        ACME,
        1,
        await world.record(ACME, b"old", 1, valid_until=end),
        await world.record(ACME, b"new", 2),
    )
    assert await world.values() == [b"new", b"old"]
    world.now = end
    assert await world.values() == [b"new"]
    assert await world.values(GLOBEX) == []
    assert await world.secrets.find(ACME, "live", NAME) == []
    assert [e.data.version for e in world.log.events(SecretsHeld)] == [1]


async def test_a_change_is_seen_at_once_where_it_was_taken_in(world: World) -> None:
    for version, value in enumerate((b"one", b"two"), start=1):
        await world.tell(ACME, version, await world.record(ACME, value, version))
        assert await world.values() == [value]
    await world.tell(ACME, 3)
    assert await world.values() == []


async def test_a_change_is_seen_within_a_second_and_at_once_when_asked_afresh(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another process of the service takes it in."""
    monkeypatch.setattr(held, "SECRETS", Arrivals(tenants_max=0))
    await world.tell(ACME, 1, await world.record(ACME, b"one", 1))
    assert await world.values() == [b"one"]
    await world.tell(ACME, 2, await world.record(ACME, b"two", 2))
    assert await world.values() == [b"one"]
    assert await world.values(afresh=True) == [b"two"]
    await world.tell(ACME, 3, await world.record(ACME, b"three", 3))
    world.clock += 1.0
    assert await world.values() == [b"three"]
    await world.tell(ACME, 4)
    world.clock += 1.0
    assert await world.values() == []


async def test_what_was_opened_stays_in_memory_for_some_minutes_only(world: World) -> None:
    await world.tell(ACME, 1, await world.record(ACME, b"one", 1))
    assert await world.values() == [b"one"]
    world.holder.away = True
    world.clock += 299
    assert await world.values() == [b"one"]
    assert world.holder.asked == 1
    world.clock += 301
    with pytest.raises(MasterKeyUnavailableError):
        await world.values()
    world.holder.away = False
    assert await world.values() == [b"one"]


async def test_another_tenants_sealed_value_does_not_open(world: World) -> None:
    theirs = await world.record(ACME, b"stolen", 1, sealed_for=GLOBEX)
    await world.tell(ACME, 1, theirs)
    with pytest.raises(TamperedSealedValueError):
        await world.values()


async def test_a_version_that_does_not_open_does_not_hide_the_others(world: World) -> None:
    good = await world.record(ACME, b"good", 2)
    bad = await world.record(ACME, b"bad", 1, valid_until=world.now + timedelta(hours=1))
    await world.tell(ACME, 1, good, bad.model_copy(update={"sealed": "bm9uc2Vuc2U="}))
    with capture_logs() as told:
        assert await world.values() == [b"good"]
    (entry,) = [each for each in told if each["event"] == "secret_does_not_open"]
    assert "good" not in str(entry)


async def test_without_its_data_key_a_secret_is_gone(world: World) -> None:
    secret = await world.record(ACME, b"one", 1)
    world.keys.clear()
    await world.tell(ACME, 1, secret)
    with pytest.raises(DestroyedKeyError):
        await world.values()


async def test_a_reference_needs_its_store(world: World) -> None:
    secret = await world.record(ACME, b"one", 1)
    moved = secret.model_copy(update={"sealed": None, "reference": "vault:sluice/a/b#1"})
    await world.tell(ACME, 1, moved)
    with pytest.raises(SealedValueError, match="not configured"):
        await world.values()


async def test_a_secret_in_memory_is_not_shown(world: World) -> None:
    await world.tell(ACME, 1, await world.record(ACME, b"canary", 1))
    found = await world.secrets.find(ACME, "test", NAME)
    assert "canary" not in repr(found)
