"""Ciphertext as it stands in the tables, edited and moved by somebody who may write every row.

What the crypto library promises of bytes is in tests/libs/crypto. Here the rows are real, a
superuser changes them, and the code that runs in production reads them (attack A24).
"""

import base64
import contextlib
import json
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from libs.clock import utc_now
from libs.crypto.errors import SealedValueError, UnknownMasterKeyError
from libs.db.tenant import NOBODY
from libs.directory.secrets import SECRET_FIELD, SECRET_TABLE, Secrets
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.tenants import secrets, store_connections, store_secrets
from services.tenants.sealing import Place
from tests.conftest import story_seed
from tests.services.tenants.conftest import World
from tests.services.tenants.sealed_world import (
    begin,
    connect,
    finish,
    holders,
    process_with,
    put_secret,
    sealer_of,
    write_master_keys,
)

EDITS = 1_000
HOLDERS = ("gateway", "stripe_sync")
KEYS = f"k1:{base64.b64encode(b'm' * 32).decode()}"
OTHER_KEYS = f"k9:{base64.b64encode(b'o' * 32).decode()}"


@dataclass
class Vault:
    """Two tenants, two versions of a secret each, and the rows they stand in."""

    world: World
    database: TestDatabase
    admin: asyncpg.Connection
    holders: dict[str, tuple[Any, Secrets]]
    tenants: tuple[UUID, UUID]

    async def read(self, tenant_id: UUID, secret_id: UUID) -> str:
        """The secret as tenants itself reads it, from its row, with nothing in memory."""
        async with self.world.database.tenant(tenant_id, "test") as tx:
            row = await store_secrets.find_secret(tx, secret_id)
        sealer = sealer_of(self.world)
        sealer.data_keys.forget(tenant_id)
        return await secrets.read(sealer, tenant_id, row)

    async def held(self, service: str, tenant_id: UUID) -> list[bytes]:
        """The secrets as a holder finds them."""
        found = await self.holders[service][1].find(
            tenant_id, "test", "stripe_secret_key", afresh=True
        )
        return [each.value for each in found]


@pytest.fixture
async def vault(
    world: World, database: TestDatabase, tmp_path: Path
) -> AsyncGenerator[Vault, None]:
    path = tmp_path / "master-keys"
    write_master_keys(path, KEYS)
    tenants = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    async with (
        database.admin() as admin,
        holders(world, database, process_with(path)) as held,
    ):
        for tenant_id in tenants:
            connection_id = await connect(world, tenant_id, f"sk_test_first_{tenant_id}")
            await put_secret(world, tenant_id, connection_id, f"sk_test_second_{tenant_id}")
        yield Vault(world, database, admin, held, (tenants[0], tenants[1]))


def edited(value: bytes, rng: random.Random) -> bytes:
    """The bytes with one thing changed: a bit, a byte, some more, some fewer, some exchanged."""
    place = rng.randrange(len(value))
    changed = rng.choice(
        [
            value[:place] + bytes([value[place] ^ 1 << rng.randrange(8)]) + value[place + 1 :],
            value[:place] + rng.randbytes(1) + value[place + 1 :],
            value[:place],
            value[:place] + rng.randbytes(rng.randrange(1, 17)) + value[place:],
            value + rng.randbytes(rng.randrange(1, 17)),
            value[place:] + value[:place],
            value[:place] + value[place + 1 :],
            value[:place] + rng.randbytes(len(value) - place),
            rng.randbytes(len(value)),
        ]
    )
    return changed if changed != value else value + b"\0"


SECRETS_OF = "select tenant_id, secret_id, sealed, data_key_id from tenants.connection_secret"
KEYS_OF = "select tenant_id, data_key_id, wrapped from tenants.data_key"


async def test_a_thousand_edits_are_all_detected(vault: Vault) -> None:
    rng = random.Random(story_seed())
    admin = vault.admin
    rows = await admin.fetch(f"{SECRETS_OF} where tenant_id = any ($1)", vault.tenants)
    assert len(rows) == 4
    undetected = []
    for turn in range(EDITS):
        row = rng.choice(rows)
        tenant_id, secret_id = row["tenant_id"], row["secret_id"]
        edit = (_edit_secret, _edit_data_key, _edit_held)[turn % 3]
        undo = await edit(vault, row, rng)
        try:
            if edit is _edit_held:
                values = await vault.held(HOLDERS[turn % 2], tenant_id)
                said: Any = values if len(values) > 1 else None
            else:
                said = await vault.read(tenant_id, secret_id)
        except SealedValueError:
            said = None
        if said is not None:
            undetected.append((turn, edit.__name__, said))
        await admin.execute(*undo)
    assert undetected == []
    # And what was put back opens again: it was the edit that was refused.
    for row in rows:
        assert (await vault.read(row["tenant_id"], row["secret_id"])).startswith("sk_test_")
    for service in HOLDERS:
        assert len(await vault.held(service, vault.tenants[0])) == 2


async def _edit_secret(vault: Vault, row: Any, rng: random.Random) -> tuple[Any, ...]:
    sql = "update tenants.connection_secret set sealed = $2 where secret_id = $1"
    await vault.admin.execute(sql, row["secret_id"], edited(row["sealed"], rng))
    return sql, row["secret_id"], row["sealed"]


async def _edit_data_key(vault: Vault, row: Any, rng: random.Random) -> tuple[Any, ...]:
    sql = "update tenants.data_key set wrapped = $2 where data_key_id = $1"
    (key,) = await vault.admin.fetch(f"{KEYS_OF} where data_key_id = $1", row["data_key_id"])
    await vault.admin.execute(sql, key["data_key_id"], edited(key["wrapped"], rng))
    return sql, key["data_key_id"], key["wrapped"]


async def _edit_held(vault: Vault, row: Any, rng: random.Random) -> tuple[Any, ...]:
    """One sealed value or wrapped key in what both holders hold; the other version stays good."""
    found = await vault.admin.fetchval(
        "select record::text from gateway.tenant_secrets where tenant_id = $1", row["tenant_id"]
    )
    record = json.loads(found)
    secret = rng.choice(record["secrets"])
    secret["sealed"] = _recoded(secret["sealed"], rng)
    for schema in HOLDERS:
        await vault.admin.execute(
            f"update {schema}.tenant_secrets set record = $2::text::jsonb where tenant_id = $1",
            *(row["tenant_id"], json.dumps(record)),
        )
    undo = (
        "with one as (update gateway.tenant_secrets set record = $2::text::jsonb "
        "where tenant_id = $1) update stripe_sync.tenant_secrets set record = $2::text::jsonb "
        "where tenant_id = $1"
    )
    return undo, row["tenant_id"], found


def _recoded(text: str, rng: random.Random) -> str:
    return base64.b64encode(edited(base64.b64decode(text), rng)).decode()


async def moved(vault: Vault, sql: str, *parts: Any) -> bool:
    """Move ciphertext about; False where the database itself refuses it."""
    try:
        return bool(await vault.admin.execute(sql, *parts))
    except asyncpg.IntegrityConstraintViolationError:
        return False


async def test_a_value_opens_in_no_other_row(vault: Vault) -> None:
    rows = await vault.admin.fetch(f"{SECRETS_OF} where tenant_id = any ($1)", vault.tenants)
    sql = "update tenants.connection_secret set sealed = $2 where secret_id = $1"
    for here in rows:
        for there in rows:
            if here is there:
                continue
            assert await moved(vault, sql, here["secret_id"], there["sealed"])
            with pytest.raises(SealedValueError):
                await vault.read(here["tenant_id"], here["secret_id"])
            await vault.admin.execute(sql, here["secret_id"], here["sealed"])


async def test_a_row_that_is_given_to_another_tenant_does_not_open(vault: Vault) -> None:
    acme, globex = vault.tenants
    for clause in ("sealed = f.sealed", "sealed = f.sealed, data_key_id = f.data_key_id"):
        changed = await moved(
            vault,
            f"update tenants.connection_secret t set {clause} "
            "from tenants.connection_secret f where f.tenant_id = $1 and f.version = t.version "
            "and t.tenant_id = $2",
            *(acme, globex),
        )
        if changed:
            for (secret_id,) in await vault.admin.fetch(
                "select secret_id from tenants.connection_secret where tenant_id = $1", globex
            ):
                with pytest.raises(SealedValueError):
                    await vault.read(globex, secret_id)
    # With the very key of the other tenant beside it, it does not open either.
    keys = await vault.admin.fetch(f"{KEYS_OF} where tenant_id = $1", acme)
    await vault.admin.execute(
        "update tenants.data_key set wrapped = $2 where tenant_id = $1", globex, keys[0]["wrapped"]
    )
    for (secret_id,) in await vault.admin.fetch(
        "select secret_id from tenants.connection_secret where tenant_id = $1", globex
    ):
        with pytest.raises(SealedValueError):
            await vault.read(globex, secret_id)


@pytest.mark.parametrize("service", HOLDERS)
async def test_what_a_holder_is_given_of_another_tenant_does_not_open(
    vault: Vault, service: str
) -> None:
    acme, globex = vault.tenants
    assert len(await vault.held(service, globex)) == 2
    await vault.admin.execute(
        f"update {service}.tenant_secrets t set record = f.record "
        f"from {service}.tenant_secrets f where f.tenant_id = $1 and t.tenant_id = $2",
        *(acme, globex),
    )
    with pytest.raises(SealedValueError):
        await vault.held(service, globex)


async def test_a_value_of_another_field_does_not_open_as_a_secret(vault: Vault) -> None:
    # The platform's signing key is sealed, too: it is no Stripe key, wherever it is put.
    acme, _ = vault.tenants
    await vault.admin.execute(
        "update tenants.connection_secret set sealed = (select private_key_sealed "
        "from tenants.signing_key limit 1) where tenant_id = $1",
        acme,
    )
    for (secret_id,) in await vault.admin.fetch(
        "select secret_id from tenants.connection_secret where tenant_id = $1", acme
    ):
        with pytest.raises(SealedValueError):
            await vault.read(acme, secret_id)


async def test_a_row_whose_mode_name_or_connection_is_exchanged_does_not_open(
    vault: Vault,
) -> None:
    acme, _ = vault.tenants
    (row, *_) = await vault.admin.fetch(f"{SECRETS_OF} where tenant_id = $1", acme)
    live_id = new_id()
    async with vault.world.database.tenant(acme, "live") as tx:
        await store_connections.insert_connection(
            tx, live_id, "RAW_KEYS", "CONNECTED", "test", utc_now()
        )
    for changes, mode in (
        (f"mode = 'live', connection_id = '{live_id}'", "live"),
        ("name = 'stripe_webhook_secret'", "test"),
    ):
        await vault.admin.execute(
            f"update tenants.connection_secret set {changes} where secret_id = $1",
            row["secret_id"],
        )
        async with vault.world.database.tenant(acme, mode) as tx:  # type: ignore[arg-type]
            moved_row = await store_secrets.find_secret(tx, row["secret_id"])
        with pytest.raises(SealedValueError):
            await secrets.read(sealer_of(vault.world), acme, moved_row)
        await vault.admin.execute(
            "update tenants.connection_secret set mode = 'test', name = 'stripe_secret_key', "
            "connection_id = (select connection_id from tenants.stripe_connection "
            "where tenant_id = $2 and mode = 'test') where secret_id = $1",
            *(row["secret_id"], acme),
        )
        assert (await vault.read(acme, row["secret_id"])).startswith("sk_test_")


@pytest.mark.parametrize("service", HOLDERS)
@pytest.mark.parametrize(("field", "value"), [("mode", "live"), ("name", "stripe_webhook_secret")])
async def test_a_held_record_whose_mode_or_name_is_exchanged_does_not_open(
    vault: Vault, service: str, field: str, value: str
) -> None:
    acme, _ = vault.tenants
    (text,) = await vault.admin.fetch(
        f"select record::text from {service}.tenant_secrets where tenant_id = $1", acme
    )
    record = json.loads(text[0])
    for secret in record["secrets"]:
        secret[field] = value
    await vault.admin.execute(
        f"update {service}.tenant_secrets set record = $2::text::jsonb where tenant_id = $1",
        *(acme, json.dumps(record)),
    )
    wanted = {"mode": "test", "name": "stripe_secret_key", field: value}
    with pytest.raises(SealedValueError):
        await vault.holders[service][1].find(
            acme,
            wanted["mode"],
            wanted["name"],
            afresh=True,  # type: ignore[arg-type]
        )


async def test_a_kept_answer_is_nobody_elses(vault: Vault) -> None:
    world, (acme, _) = vault.world, vault.tenants
    one, two = [await world.make_key(str(acme), "members:manage", "usage:write") for _ in range(2)]
    body = {"name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once"}
    made = await world.call("POST", "/api/v1/api-keys", key=one, json=body, headers=headers)
    assert made.status_code == 201, made.text
    # Somebody who writes every row gives the answer to another caller, of the same tenant.
    callers = await vault.admin.fetch(
        "select caller from tenants.idempotency_key where tenant_id = $1", acme
    )
    assert len(callers) == 1
    mine = await world.call("POST", "/api/v1/api-keys", key=two, json=body, headers=headers)
    assert mine.json()["key"] != made.json()["key"]
    await vault.admin.execute(
        "update tenants.idempotency_key t set answer = f.answer from tenants.idempotency_key f "
        "where f.tenant_id = $1 and t.tenant_id = $1 and f.caller = $2 and t.caller <> $2",
        *(acme, callers[0]["caller"]),
    )
    stolen = await world.call("POST", "/api/v1/api-keys", key=two, json=body, headers=headers)
    assert stolen.status_code == 500
    assert made.json()["key"] not in stolen.text


async def test_what_was_sealed_before_opens_and_is_bound_anew_by_a_rotation(
    vault: Vault,
) -> None:
    world, (acme, _) = vault.world, vault.tenants
    (row, *_) = await vault.admin.fetch(f"{SECRETS_OF} where tenant_id = $1", acme)
    former = Place(SECRET_TABLE, SECRET_FIELD, str(row["secret_id"]))
    sealed = (await sealer_of(world).prepare(acme, utc_now())).seal(b"sk_test_before", former)
    async with world.database.tenant(acme, "test") as tx:
        await tx.execute(
            "update connection_secret set sealed = $2, data_key_id = $3 where secret_id = $1",
            *(row["secret_id"], sealed.value, sealed.data_key_id),
        )
        await secrets.publish_secrets(tx, utc_now())
    await world.settle()
    for rotated in (False, True):
        if rotated:
            await finish(world, await begin(world, "data", tenant="acme"))
        assert await vault.read(acme, row["secret_id"]) == "sk_test_before"
        assert b"sk_test_before" in await vault.held("gateway", acme)
        (now,) = await vault.admin.fetch(f"{SECRETS_OF} where secret_id = $1", row["secret_id"])
        opened: bytes | None = None
        with contextlib.suppress(SealedValueError):
            opened = await sealer_of(world).open(acme, now["sealed"], former)
        assert opened == (None if rotated else b"sk_test_before")


async def test_a_dump_opens_with_the_keyring_and_with_no_other(
    vault: Vault, database: TestDatabase, tmp_path: Path
) -> None:
    acme, _ = vault.tenants
    for text, opens in ((KEYS, True), (OTHER_KEYS, False)):
        path = tmp_path / f"keys-{opens}"
        write_master_keys(path, text)
        async with database.open("gateway") as gateway:
            stolen = Secrets(gateway, process_with(path))
            if opens:
                found = await stolen.find(acme, "test", "stripe_secret_key")
                assert [each.value.decode() for each in found] == [
                    f"sk_test_second_{acme}",
                    f"sk_test_first_{acme}",
                ]
            else:
                with pytest.raises(UnknownMasterKeyError):
                    await stolen.find(acme, "test", "stripe_secret_key")
            async with gateway.transaction(NOBODY) as tx:
                assert await tx.fetchval("select count(*) from tenant_secrets") == 0
