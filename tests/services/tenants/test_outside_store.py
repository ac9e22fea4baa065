"""Stripe secrets in a store outside: only references stand in the database and on the topic."""

import base64
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.crypto.errors import SecretStoreUnavailableError
from libs.crypto.stores.vault import VaultSecrets
from libs.ids import new_id
from services.tenants import connection_jobs, secrets, shredding
from services.tenants.means import Means
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings
from tests.libs.crypto.json_server import serving
from tests.libs.crypto.vault_server import TOKEN, VaultServer
from tests.services.tenants.sandbox import SDK_WARNING, StripeWorld

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)


@pytest.fixture
def vault() -> Iterator[tuple[VaultServer, str]]:
    """Vault's KV engine, and its address."""
    server = VaultServer()
    with serving(server) as address:
        yield server, address


@pytest.fixture
async def outside(
    stripe_world: StripeWorld, vault: tuple[VaultServer, str], monkeypatch: pytest.MonkeyPatch
) -> StripeWorld:
    """A tenants service that keeps secrets in Vault."""
    monkeypatch.setenv("SLUICE_SECRET_STORE", "vault")
    monkeypatch.setenv("SLUICE_VAULT_ADDRESS", vault[1])
    monkeypatch.setenv("SLUICE_VAULT_TOKEN", TOKEN)
    settings, means = Settings(), stripe_world.means
    sealer = Sealer(means.database, settings.sealing)
    stripe_world.means = Means(means.database, sealer, means.stripe, settings)
    stripe_world.world.app.state.means = stripe_world.means
    return stripe_world


def values_in(vault: VaultServer) -> list[str]:
    """Every secret that Vault holds."""
    return [
        base64.b64decode(version["value"]).decode()
        for versions in vault.kv.values()
        for version in versions
    ]


async def test_a_secret_outside_is_known_by_its_reference_and_destroyed_there(
    outside: StripeWorld, vault: tuple[VaultServer, str]
) -> None:
    tenant, key = await outside.tenant("Acme")
    account = outside.sandbox.account()
    answer = await outside.configure(key, stripe_secret_key=account.secret_key)
    assert answer.status_code == 201, answer.text
    (row,) = [each for each in await outside.rows(tenant) if each["name"] == "stripe_secret_key"]
    assert (row["sealed"], row["data_key_id"]) == (None, None)
    assert await secrets.read(outside.means.sealer, UUID(tenant), row) == account.secret_key
    told = next(e for e in outside.secrets(tenant).secrets if e.name == "stripe_secret_key")
    assert (told.sealed, told.reference) == (None, row["reference"])

    newer = outside.sandbox.key(account.id)
    await outside.configure(key, stripe_secret_key=newer, overlap_seconds=0)
    outside.sandbox.revoke(account.secret_key)
    async with outside.world.database.maintenance() as tx:
        await tx.execute(
            "update connection_secret set check_due_at = now() - interval '1 second', "
            "valid_until = valid_until - $1::interval where state = 'previous'",
            timedelta(seconds=1),
        )
    await connection_jobs.finish_secrets(outside.means)
    (old, *_) = [each for each in await outside.rows(tenant) if each["name"] == "stripe_secret_key"]
    assert (old["state"], old["reference"]) == ("destroyed", None)
    assert account.secret_key not in values_in(vault[0])
    assert newer in values_in(vault[0])


async def test_what_is_not_kept_leaves_nothing_outside(
    outside: StripeWorld, vault: tuple[VaultServer, str]
) -> None:
    _, key = await outside.tenant("Acme")
    account, other = outside.sandbox.account(), outside.sandbox.account()
    await outside.configure(key, stripe_secret_key=account.secret_key)
    answer = await outside.configure(key, stripe_secret_key=other.secret_key)
    assert answer.status_code == 409
    again = await outside.configure(key, stripe_secret_key=account.secret_key)
    assert again.json()["secret_key"]["version"] == 1
    assert other.secret_key not in values_in(vault[0])
    assert values_in(vault[0]).count(account.secret_key) == 1


async def test_a_store_that_is_away_changes_nothing(
    outside: StripeWorld, vault: tuple[VaultServer, str]
) -> None:
    tenant, key = await outside.tenant("Acme")
    account = outside.sandbox.account()
    vault[0].away = True
    answer = await outside.configure(key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert await outside.rows(tenant) == []


class KilledError(BaseException):
    """The process is gone."""


async def left_over(outside: StripeWorld, *, after: timedelta) -> None:
    """What the job does, so long after."""
    means = outside.means
    await shredding.forget_left_over(means.database, means.sealer, utc_now() + after)


async def intents(outside: StripeWorld) -> int:
    async with outside.world.database.maintenance() as tx:
        return int(await tx.fetchval("select count(*) from secret_intent"))


@pytest.mark.parametrize("dies", ["before it is written", "after it was written"])
async def test_a_secret_whose_writer_was_killed_is_deleted_outside(
    outside: StripeWorld,
    vault: tuple[VaultServer, str],
    monkeypatch: pytest.MonkeyPatch,
    dies: str,
) -> None:
    tenant, key = await outside.tenant("Acme")
    account = outside.sandbox.account()
    real = VaultSecrets.put

    async def put(self: VaultSecrets, tenant_id: UUID, secret_id: UUID, plaintext: bytes) -> str:
        if dies == "after it was written":
            await real(self, tenant_id, secret_id, plaintext)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(VaultSecrets, "put", put)
        with pytest.raises(KilledError):
            await outside.configure(key, stripe_secret_key=account.secret_key)
    assert await outside.rows(tenant) == []
    assert values_in(vault[0]) == ([account.secret_key] if dies.startswith("after") else [])
    # Young enough to be under way still: left alone.
    await left_over(outside, after=timedelta(minutes=9))
    assert await intents(outside) == 1
    # The job is killed, too, or Vault is away: the next one goes on.
    vault[0].away = True
    with pytest.raises(SecretStoreUnavailableError):
        await left_over(outside, after=timedelta(minutes=11))
    vault[0].away = False
    assert await intents(outside) == 1
    with monkeypatch.context() as patch:

        async def forget(*_: object) -> None:
            raise KilledError

        patch.setattr(VaultSecrets, "forget", forget)
        with pytest.raises(KilledError):
            await left_over(outside, after=timedelta(minutes=11))
    await left_over(outside, after=timedelta(minutes=11))
    assert values_in(vault[0]) == []
    assert await intents(outside) == 0
    # And the tenant configures itself as if nothing had been.
    answer = await outside.configure(key, stripe_secret_key=account.secret_key)
    assert answer.status_code == 201, answer.text
    assert await intents(outside) == 0
    await left_over(outside, after=timedelta(days=1))
    assert account.secret_key in values_in(vault[0])


async def test_a_secret_that_is_being_deleted_is_not_entered(
    outside: StripeWorld, vault: tuple[VaultServer, str]
) -> None:
    tenant, _ = await outside.tenant("Acme")
    means, now = outside.means, utc_now()
    new = await secrets.keep(
        means.sealer,
        UUID(tenant),
        "test",
        "stripe_secret_key",
        "sk_test_slow",
        pepper=means.settings.key_pepper_bytes,
        at=now,
    )
    await left_over(outside, after=timedelta(minutes=11))
    with pytest.raises(SecretStoreUnavailableError):
        async with means.database.tenant(UUID(tenant), "test") as tx:
            await secrets.enter(tx, new_id(), new, actor="test", at=now, overlap=timedelta(hours=1))
    assert await outside.rows(tenant) == []
    assert values_in(vault[0]) == []
