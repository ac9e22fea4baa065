"""Every holder of master keys keeps the same promises, each on the most real server there is."""

import asyncio
import base64
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import hvac
import pytest
from structlog.testing import capture_logs

from libs.crypto.clients.gcp import GcpClient, crc32c
from libs.crypto.data_keys import DataKeys
from libs.crypto.errors import (
    KeyringError,
    MalformedSealedValueError,
    MasterKeyMisusedError,
    MasterKeyUnavailableError,
    SealedValueError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.keyring import Keyring
from libs.crypto.sealed import open_sealed, seal
from libs.crypto.vaults.gcp import GcpMasterKeys
from libs.crypto.vaults.local import KeyringFile, LocalMasterKeys
from libs.crypto.vaults.vault import VaultMasterKeys
from libs.crypto.wrapped import VAULT, WrappedKey, master_key_id_of, read_wrapped
from libs.ids import new_id
from tests.libs.crypto.conftest import Provider, vault_client
from tests.libs.crypto.gcp_server import KEY, GcpServer
from tests.libs.crypto.json_server import serving
from tests.libs.crypto.vault_server import TOKEN, VaultServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = UUID("01890000-0000-7000-8000-000000000001")
DATA_KEY_ID = UUID("01890000-0000-7000-8000-0000000000aa")
BOUND = {"tenant_id": TENANT, "data_key_id": DATA_KEY_ID}
EDITS = 150


async def test_what_is_wrapped_unwraps_and_names_its_master_key(provider: Provider) -> None:
    key = secrets.token_bytes(32)
    wrapped = await provider.keys.wrap(key, **BOUND)
    assert key not in wrapped
    assert await provider.keys.unwrap(wrapped, **BOUND) == key
    assert master_key_id_of(wrapped) == await provider.keys.newest_id()
    assert await provider.keys.wrap(key, **BOUND) != wrapped


async def test_a_wrapped_key_is_bound_to_tenant_and_id(provider: Provider) -> None:
    wrapped = await provider.keys.wrap(secrets.token_bytes(32), **BOUND)
    for other in (
        {"tenant_id": uuid4(), "data_key_id": DATA_KEY_ID},
        {"tenant_id": TENANT, "data_key_id": uuid4()},
    ):
        with pytest.raises(TamperedSealedValueError):
            await provider.keys.unwrap(wrapped, **other)
        with pytest.raises(TamperedSealedValueError):
            await provider.keys.unwrap(await provider.keys.rewrap(wrapped, **BOUND), **other)


async def test_random_edits_of_a_wrapped_key_are_all_noticed(provider: Provider) -> None:
    wrapped = await provider.keys.wrap(secrets.token_bytes(32), **BOUND)
    for _ in range(EDITS):
        edited = bytearray(wrapped)
        edited[secrets.randbelow(len(edited))] ^= 1 + secrets.randbelow(255)
        with pytest.raises((SealedValueError, MasterKeyUnavailableError)):
            await provider.keys.unwrap(bytes(edited), **BOUND)


async def test_a_new_master_key_takes_over_without_a_gap(provider: Provider) -> None:
    key = secrets.token_bytes(32)
    old = await provider.keys.wrap(key, **BOUND)
    newer = provider.rotate()
    assert await newer.unwrap(old, **BOUND) == key
    wrapped = await newer.rewrap(old, **BOUND)
    assert master_key_id_of(wrapped) == await newer.newest_id() != master_key_id_of(old)
    assert await newer.unwrap(wrapped, **BOUND) == key


async def test_another_providers_record_is_refused(provider: Provider) -> None:
    local = Keyring({"k1": b"k" * 32}, "k1").wrap(b"x" * 32, **BOUND)
    with pytest.raises(UnknownMasterKeyError):
        await provider.keys.unwrap(local, **BOUND)
    foreign = await provider.keys.wrap(b"x" * 32, **BOUND)
    with pytest.raises(UnknownMasterKeyError):
        Keyring({"k1": b"k" * 32}, "k1").unwrap(foreign, **BOUND)


async def test_a_holder_that_is_away_is_told_apart_and_soon(provider: Provider) -> None:
    wrapped = await provider.keys.wrap(b"x" * 32, **BOUND)
    began = time.monotonic()
    for attempt in (
        provider.away.wrap(b"x" * 32, **BOUND),
        provider.away.unwrap(wrapped, **BOUND),
        provider.away.rewrap(wrapped, **BOUND),
        provider.away.newest_id(),
    ):
        with pytest.raises(MasterKeyUnavailableError) as caught:
            await attempt
        assert TOKEN not in str(caught.value)
    assert time.monotonic() - began < 120


async def test_a_version_that_vault_has_retired_opens_nothing(
    vault_provider: Provider, vault_address: str
) -> None:
    old = await vault_provider.keys.wrap(b"x" * 32, **BOUND)
    newer = vault_provider.rotate()
    new = await newer.rewrap(old, **BOUND)
    name = master_key_id_of(old).split("/")[1]
    hvac.Client(url=vault_address, token=TOKEN).secrets.transit.update_key_configuration(
        name=name, min_decryption_version=2
    )
    with pytest.raises(UnknownMasterKeyError):
        await newer.unwrap(old, **BOUND)
    assert await newer.unwrap(new, **BOUND) == b"x" * 32


REFUSALS: tuple[tuple[str, type[Exception]], ...] = (
    ("cipher: message authentication failed", TamperedSealedValueError),
    ("chacha20poly1305: message authentication failed", TamperedSealedValueError),
    ("invalid ciphertext: unable to decrypt", TamperedSealedValueError),
    ("ciphertext or signature version is disallowed by policy (too old)", UnknownMasterKeyError),
    ("invalid ciphertext: version is too new", UnknownMasterKeyError),
    ("encryption key not found", UnknownMasterKeyError),
    ("invalid ciphertext: no prefix", MalformedSealedValueError),
    ("invalid ciphertext: could not decode base64", MalformedSealedValueError),
    ("invalid ciphertext length", MalformedSealedValueError),
    ("missing 'context' for key derivation", MasterKeyMisusedError),
    ("missing ciphertext to decrypt", MasterKeyMisusedError),
    ("something that Vault says in years to come", MasterKeyMisusedError),
)


@pytest.mark.parametrize(("sentence", "meaning"), REFUSALS)
async def test_only_what_vault_calls_tampered_is_tampered(
    sentence: str, meaning: type[Exception]
) -> None:
    server = VaultServer()
    with serving(server) as address:
        hvac.Client(url=address, token=TOKEN).secrets.transit.create_key(
            name="sluice", derived=True
        )
        keys = VaultMasterKeys(vault_client(address), mount="transit", key="sluice")
        wrapped = await keys.wrap(b"x" * 32, **BOUND)
        server.refusal = sentence
        for attempt in (keys.unwrap(wrapped, **BOUND), keys.rewrap(wrapped, **BOUND)):
            with pytest.raises((SealedValueError, MasterKeyUnavailableError)) as caught:
                await attempt
            assert type(caught.value) is meaning
            assert sentence not in str(caught.value)


async def test_a_transit_key_that_is_gone_is_no_tampering(
    vault_provider: Provider, vault_address: str
) -> None:
    wrapped = read_wrapped(await vault_provider.keys.wrap(b"x" * 32, **BOUND))
    gone = VaultMasterKeys(vault_client(vault_address), mount="transit", key="gone")
    with pytest.raises(UnknownMasterKeyError, match="no such transit key"):
        await gone.unwrap(WrappedKey(VAULT, "transit/gone/v1", wrapped.body).record, **BOUND)
    name = wrapped.master_key_id.replace("/v1", "/v7")
    with pytest.raises(UnknownMasterKeyError, match="no such version"):
        await vault_provider.keys.unwrap(WrappedKey(VAULT, name, wrapped.body).record, **BOUND)


async def test_a_transit_key_that_ignores_the_context_is_not_used(vault_address: str) -> None:
    hvac.Client(url=vault_address, token=TOKEN).secrets.transit.create_key(name="plain")
    keys = VaultMasterKeys(vault_client(vault_address), mount="transit", key="plain")
    with pytest.raises(MasterKeyUnavailableError, match="derived=true"):
        await keys.wrap(b"x" * 32, **BOUND)


async def test_answers_damaged_on_their_way_are_noticed() -> None:
    server = GcpServer()
    with serving(server) as address:
        keys = GcpMasterKeys(GcpClient(address, anonymous=True), key=KEY)
        wrapped = await keys.wrap(b"x" * 32, **BOUND)
        for part in ("ciphertext", "plaintext"):
            server.damage = part
            attempt = keys.wrap(b"x" * 32, **BOUND) if part == "ciphertext" else None
            with pytest.raises(MasterKeyUnavailableError, match="damaged"):
                await (attempt or keys.unwrap(wrapped, **BOUND))


def test_crc32c_is_the_castagnoli_one() -> None:
    assert crc32c(b"123456789") == str(0xE3069283)
    assert crc32c(b"") == "0"


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_key_service_that_is_away_stops_nothing_for_some_minutes() -> None:
    server, clock = VaultServer(), Clock()
    with serving(server) as address:
        client = hvac.Client(url=address, token=TOKEN)
        client.secrets.transit.create_key(name="sluice", derived=True)
        holder = VaultMasterKeys(vault_client(address), mount="transit", key="sluice")
        data_keys = DataKeys(holder, kept_seconds=300, clock=clock)
        made = await data_keys.create(TENANT, NOW)
        place = {"tenant_id": TENANT, "table": "t", "field": "f", "row_id": "1"}
        sealed = seal(b"secret", key=made, **place)
        server.away = True
        clock.now += 299
        kept = await data_keys.open(made.data_key)
        assert open_sealed(sealed, key=kept, **place) == b"secret"
        clock.now += 2
        with pytest.raises(MasterKeyUnavailableError):
            await data_keys.open(made.data_key)
        with pytest.raises(MasterKeyUnavailableError):
            await data_keys.create(TENANT, NOW)
        server.away = False
        assert (await data_keys.open(made.data_key)).key == made.key


async def test_many_who_need_one_key_ask_for_it_once() -> None:
    server = VaultServer()
    with serving(server) as address:
        client = hvac.Client(url=address, token=TOKEN)
        client.secrets.transit.create_key(name="sluice", derived=True)
        holder = VaultMasterKeys(vault_client(address), mount="transit", key="sluice")
        made = await DataKeys(holder).create(TENANT, NOW)
        server.calls.clear()
        fresh = DataKeys(holder)
        found = await asyncio.gather(*(fresh.open(made.data_key) for _ in range(50)))
        assert {each.key for each in found} == {made.key}
        assert server.calls.count("POST /v1/transit/decrypt/sluice") == 1


async def test_memory_is_bounded_and_forgets_a_tenant() -> None:
    keyring = Keyring({"k1": b"k" * 32}, "k1")
    data_keys = DataKeys(LocalMasterKeys(lambda: keyring), entries_max=10)
    for _ in range(30):
        await data_keys.create(uuid4(), NOW)
    assert len(data_keys._kept) == 10
    made = await data_keys.create(TENANT, NOW)
    assert any(name[0] == TENANT for name in data_keys._kept)
    data_keys.forget(TENANT)
    assert not any(name[0] == TENANT for name in data_keys._kept)
    assert (await data_keys.open(made.data_key)).key == made.key


def line(key_id: str, key: bytes) -> str:
    return f"{key_id}:{base64.b64encode(key).decode()}\n"


def put(path: Path, text: str, mode: int = 0o600) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=mode)
    fresh.write_text(text)
    fresh.replace(path)


async def test_a_file_of_master_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    put(path, line("k1", b"1" * 32))
    keys = LocalMasterKeys(KeyringFile(path))
    old = await keys.wrap(b"x" * 32, **BOUND)
    put(path, line("k2", b"2" * 32) + line("k1", b"1" * 32))
    assert await keys.newest_id() == "k2"
    new = await keys.rewrap(old, **BOUND)
    put(path, line("k2", b"2" * 32))
    assert await keys.unwrap(new, **BOUND) == b"x" * 32
    with pytest.raises(UnknownMasterKeyError):
        await keys.unwrap(old, **BOUND)


async def test_a_broken_file_is_told_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    put(path, line("k1", b"1" * 32))
    keys = LocalMasterKeys(KeyringFile(path))
    for text, mode in (("nonsense", 0o600), (line("k2", b"2" * 32), 0o644)):
        put(path, text, mode)
        with capture_logs() as told:
            assert await keys.newest_id() == "k1"
        assert [each["event"] for each in told] == ["master_keys_file_unusable"]
    path.unlink()
    assert await keys.newest_id() == "k1"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    put(path, line("k1", b"1" * 32))
    path.chmod(mode)
    with pytest.raises(KeyringError, match="0600"):
        KeyringFile(path)


def test_what_is_no_file_of_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyringError):
        KeyringFile(tmp_path / "absent")
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    for content in (b"", b"\xff\xfe", b"# only a remark\n", os.urandom(70_000)):
        path.write_bytes(content)
        with pytest.raises(KeyringError):
            KeyringFile(path)


def test_a_wrapped_key_says_whose_it_is() -> None:
    wrapped = Keyring({"k1": b"k" * 32}, "k1").wrap(
        b"x" * 32, tenant_id=new_id(), data_key_id=new_id()
    )
    parts = read_wrapped(wrapped)
    assert (parts.provider, parts.master_key_id) == (1, "k1")
    assert parts.record == wrapped
