"""Rotations of data keys take turns, look at every value, and hold each other up in nothing."""

import base64
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.db.pool import Tx
from libs.testing.databases import TestDatabase
from services.tenants import rotation, secrets, store_data_keys
from services.tenants.sealing import Place
from tests.services.tenants.conftest import PEPPER, World
from tests.services.tenants.sealed_world import (
    begin,
    connect,
    finish,
    progress,
    sealer_of,
    step,
)

KEPT_BEFORE = 10_500


async def test_every_kept_answer_is_sealed_anew_however_many_there_are(
    world: World, database: TestDatabase
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    other = await sealer_of(world).prepare(UUID((await world.sign_up("Globex"))["id"]), utc_now())
    elsewhere = base64.b64encode(other.seal(b"x", Place("t", "f", "r")).value).decode()
    async with database.admin() as admin:
        # Before all others by caller, key and time; what they hold needs no key of the tenant.
        await admin.execute(
            "insert into tenants.idempotency_key "
            "(tenant_id, mode, caller, key, request_hash, status, answer, created_at) "
            "select $1, 'test', 'a', n::text, '\\x00', 201, jsonb_build_object("
            "'id', n::text, 'key_sealed', case when n % 2 = 0 then $2 else 'not sealed' end), "
            "now() - interval '1 hour' from generate_series(1, $3) n",
            tenant_id,
            elsewhere,
            KEPT_BEFORE,
        )
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    made = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert made.status_code == 201, made.text
    done = await finish(world, await begin(world, "data", tenant="acme"))
    assert done["done"] == 1
    again = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true", again.text
    assert again.json()["key"] == made.json()["key"]


async def test_a_straggler_keeps_its_key_and_nobody_from_a_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    connection_id = await connect(world, acme, "sk_test_first")
    await tell_held(world, acme)
    await sealer_of(world).prepare(globex, utc_now())
    late = await secrets.keep(
        sealer_of(world),
        acme,
        "test",
        "stripe_webhook_secret",
        "whsec_late",
        pepper=PEPPER,
        at=utc_now(),
    )
    real, waiting = store_data_keys.lock_data_keys, [late]

    async def lock_data_keys(tx: Tx) -> None:
        # Everything was looked at, and the old key is about to go: now a slow writer commits.
        await real(tx)
        if tx.tenant_id == acme and rows_of.get("state") == "waiting" and waiting:
            async with world.database.tenant(acme, "test") as slow:
                await secrets.enter(
                    slow,
                    connection_id,
                    waiting.pop(),
                    actor="test",
                    at=utc_now(),
                    overlap=rotation.GRACE,
                )

    rows_of: dict[str, Any] = {}
    monkeypatch.setattr(rotation.store_data_keys, "lock_data_keys", lock_data_keys)
    first = await begin(world, "data", tenant="acme")
    second = await begin(world, "data", tenant="globex")
    for _ in range(10):
        rows_of["state"] = (await progress(world, first))["state"]
        await tell_held(world, acme)
        await step(world)
        if not waiting:
            break
    assert not waiting
    assert (await progress(world, first))["state"] != "done"
    assert (await progress(world, second))["state"] == "done"
    for _ in range(10):
        await tell_held(world, acme)
        await step(world)
    assert (await progress(world, first))["state"] == "done"
    async with world.database.tenant(acme, "test") as tx:
        row = await tx.fetchrow(
            "select * from connection_secret where secret_id = $1", late.secret_id
        )
    assert await secrets.read(sealer_of(world), acme, row) == "whsec_late"


async def tell_held(world: World, tenant_id: UUID) -> None:
    """As if every holder had told that it holds what was told last."""
    async with world.database.tenant(tenant_id, None) as tx:
        await tx.execute(
            "insert into secrets_holder (tenant_id, service, version) "
            "select v.tenant_id, h.service, v.version from secrets_version v, "
            "unnest($2::text[]) as h (service) where v.tenant_id = $1 "
            "on conflict (tenant_id, service) do update set version = excluded.version",
            tenant_id,
            list(rotation.HOLDERS),
        )


async def test_rotations_that_wait_keep_nobody_from_a_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "OPEN_MAX", 2)
    found = []
    for name in ("Acme", "Globex", "Initech", "Umbrella"):
        tenant_id = UUID((await world.sign_up(name))["id"])
        if name in {"Acme", "Globex"}:
            # Nobody holds what is told of these: their rotations wait for ever.
            await connect(world, tenant_id, "sk_test_x")
        found.append(await begin(world, "data", tenant=name.lower()))
    for _ in range(8):
        await step(world)
    states = [(await progress(world, each))["state"] for each in found]
    assert states == ["waiting", "waiting", "done", "done"]
