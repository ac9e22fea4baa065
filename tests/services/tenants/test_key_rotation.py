"""Master and data keys rotate while everything goes on, and go on where they were killed."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID, TenantSecrets
from libs.crypto.errors import UnknownMasterKeyError
from libs.db.pool import Database, Tx
from libs.directory.secrets import Secrets
from libs.testing.databases import TestDatabase
from services.tenants import bootstrap, rotation, store_sealed
from tests.services.tenants.conftest import OPERATOR_EMAIL, OPERATOR_PASSWORD, ORIGIN, World
from tests.services.tenants.sealed_world import (
    begin,
    connect,
    finish,
    holders,
    process_with,
    progress,
    put_secret,
    sealer_of,
    step,
    write_master_keys,
)

OLD = f"k1:{base64.b64encode(b'm' * 32).decode()}"
NEW = f"k2:{base64.b64encode(b'n' * 32).decode()}"


@pytest.fixture
def master_keys(tmp_path: Path) -> Path:
    """The file of master keys, with the old one."""
    path = tmp_path / "master-keys"
    write_master_keys(path, OLD)
    return path


@pytest.fixture
def environment(
    environment: None,  # noqa: ARG001 - the usual one, changed
    monkeypatch: pytest.MonkeyPatch,
    master_keys: Path,
) -> None:
    """Master keys in a file."""
    monkeypatch.delenv("SLUICE_MASTER_KEYS")
    monkeypatch.setenv("SLUICE_MASTER_KEYS_FILE", str(master_keys))


async def values_of(secrets: Secrets, tenant_id: UUID) -> list[bytes]:
    found = await secrets.find(tenant_id, "test", "stripe_secret_key", afresh=True)
    return [each.value for each in found]


async def all_data_keys(database: TestDatabase) -> dict[str, list[str]]:
    """The data keys' ids by master key."""
    async with database.admin() as admin:
        rows = await admin.fetch("select data_key_id, master_key_id from tenants.data_key")
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["master_key_id"], []).append(str(row["data_key_id"]))
    return found


async def test_every_sealed_column_is_known_to_rotation(database: TestDatabase) -> None:
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select table_name, column_name from information_schema.columns "
            "where table_schema = 'tenants' and data_type = 'bytea' and column_name like '%sealed%'"
        )
    assert {(row[0], row[1]) for row in rows} == {
        (column.table, column.column) for column in store_sealed.COLUMNS
    }


async def test_a_master_key_retires_when_every_holder_has_told(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenants = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    for tenant_id in tenants:
        await connect(world, tenant_id, f"sk_test_{tenant_id}")
    async with holders(world, database, process_with(master_keys)) as held:
        write_master_keys(master_keys, f"{NEW}\n{OLD}\n")
        rotation_id = await begin(world, "master")
        assert (await world.call("POST", "/api/v1/key-rotations", json={"kind": "master"})).json()[
            "code"
        ] == "rotation_under_way"
        await step(world)
        assert set(await all_data_keys(database)) == {"k2"}
        await step(world)
        async with world.database.maintenance() as tx:
            found = await rotation.read_progress(tx, UUID(rotation_id.removeprefix("rot_")))
        assert found is not None
        assert (found.row["state"], found.waiting_for_holders) == ("waiting", 2)
        done = await finish(world, rotation_id)
        assert done["master_key_id"] == "k2"
        assert done["done"] == done["total"] == 3
        assert done["waiting_for_holders"] == 0
        write_master_keys(master_keys, NEW)
        fresh = process_with(master_keys)
        for service in held:
            secrets = Secrets(held[service][0], fresh)
            for tenant_id in tenants:
                assert await values_of(secrets, tenant_id) == [f"sk_test_{tenant_id}".encode()]
    actions = [e.data.action for e in world.log.events(ConfigurationChanged)]
    assert actions.count("master_key.rotation_started") == 1
    assert actions.count("master_key.rotated") == 1


async def test_without_the_new_record_the_old_key_is_still_needed(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    await connect(world, tenant_id, "sk_test_x")
    async with holders(world, database, process_with(master_keys)) as held:
        write_master_keys(master_keys, NEW)
        with pytest.raises(UnknownMasterKeyError):
            await values_of(Secrets(held["gateway"][0], process_with(master_keys)), tenant_id)


async def sign_in(world: World) -> int:
    """Sign in as the operator, to the assertion that the signing key makes."""
    body = {"email": OPERATOR_EMAIL, "password": OPERATOR_PASSWORD}
    headers = {"origin": ORIGIN}
    world.client.cookies.clear()
    await world.client.post("/api/v1/session", json=body, headers=headers)
    answer = await world.client.post("/api/v1/session/assertion", json={}, headers=headers)
    world.client.cookies.clear()
    return answer.status_code


async def test_a_data_key_rotates_and_the_old_one_is_gone(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    connection_id = await connect(world, tenant_id, "sk_test_first")
    await put_secret(world, tenant_id, connection_id, "sk_test_second")
    body = {"tenant": "acme", "name": "k", "scopes": ["usage:write"], "mode": "test"}
    headers = {"Idempotency-Key": "once", "X-Tenant-ID": "acme"}
    made = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    before = await all_data_keys(database)
    async with holders(world, database, process_with(master_keys)) as held:
        done = await finish(world, await begin(world, "data", tenant="acme"))
        assert done["done"] == 3
        assert done["tenant_id"] == str(tenant_id)
        assert await values_of(held["stripe_sync"][1], tenant_id) == [
            b"sk_test_second",
            b"sk_test_first",
        ]
    again = await world.call("POST", "/api/v1/api-keys", json=body, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["key"] == made.json()["key"]
    await finish(world, await begin(world, "data", tenant=str(PLATFORM_TENANT_ID)))
    assert await sign_in(world) == 200
    after = await all_data_keys(database)
    assert len(after["k1"]) == len(before["k1"])
    assert not set(after["k1"]) & set(before["k1"])
    told = [e.data for e in world.log.events(TenantSecrets)][-1]
    assert {str(key.data_key_id) for key in told.data_keys} <= set(after["k1"])


class KilledError(Exception):
    """The process is gone."""


def dying(database: Database, after: int) -> Database:
    """A database whose process dies when it begins one transaction more."""
    mortal = Database(database.pool, database.service)
    left = [after]

    @asynccontextmanager
    async def transaction(*args: Any, **kwargs: Any) -> AsyncGenerator[Tx, None]:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        async with database.transaction(*args, **kwargs) as tx:
            yield tx

    mortal.transaction = transaction  # type: ignore[method-assign]
    return mortal


@pytest.mark.parametrize("kind", ["master", "data"])
async def test_killed_at_every_step_a_rotation_goes_on(
    world: World, database: TestDatabase, master_keys: Path, kind: str
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    connection_id = await connect(world, tenant_id, "sk_test_first")
    await put_secret(world, tenant_id, connection_id, "sk_test_second")
    async with holders(world, database, process_with(master_keys)) as held:
        write_master_keys(master_keys, f"{NEW}\n{OLD}\n")
        fields = {"tenant": "acme"} if kind == "data" else {}
        rotation_id = await begin(world, kind, **fields)
        deaths = 0
        for after in range(1, 200):
            mortal = dying(world.database, after % 25)
            sealer = sealer_of(world)
            sealer._database = mortal
            try:
                await rotation.run_once(mortal, sealer, utc_now(), grace=timedelta(0))
            except KilledError:
                deaths += 1
            await world.settle()
            for service in held:
                # Whether it goes on running or was started just now.
                for secrets in (
                    held[service][1],
                    Secrets(held[service][0], process_with(master_keys)),
                ):
                    assert await values_of(secrets, tenant_id) == [
                        b"sk_test_second",
                        b"sk_test_first",
                    ]
            if (await progress(world, rotation_id))["state"] == "done":
                break
        found = await progress(world, rotation_id)
        assert found["state"] == "done"
        assert deaths >= 4
        assert found["done"] == 2


async def test_nothing_fails_while_keys_rotate(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    await connect(world, tenant_id, "sk_test_x")
    stop = asyncio.Event()
    done = {"sealed": 0, "opened": 0, "held": 0}

    async def seal_and_open(worker: int) -> None:
        headers = {"Authorization": f"Bearer {world.operator}", "X-Tenant-ID": "acme"}
        number = 0
        while not stop.is_set():
            number += 1
            body = {"name": f"{worker}-{number}", "scopes": ["usage:write"], "mode": "test"}
            headers["Idempotency-Key"] = f"{worker}-{number}"
            made = await world.client.post("/api/v1/api-keys", json=body, headers=headers)
            if made.status_code == 409:
                return
            assert made.status_code == 201, made.text
            done["sealed"] += 1
            again = await world.client.post("/api/v1/api-keys", json=body, headers=headers)
            assert again.json()["key"] == made.json()["key"]
            done["opened"] += 1

    async def hold(secrets: Secrets) -> None:
        while not stop.is_set():
            assert await values_of(secrets, tenant_id) == [b"sk_test_x"]
            done["held"] += 1
            await asyncio.sleep(0.02)

    async with holders(world, database, process_with(master_keys)) as held:
        workers = [asyncio.create_task(seal_and_open(number)) for number in range(3)]
        workers += [asyncio.create_task(hold(held[service][1])) for service in held]
        write_master_keys(master_keys, f"{NEW}\n{OLD}\n")
        for kind, fields in (
            ("data", {"tenant": "acme"}),
            ("master", {}),
            ("data", {"tenant": "acme"}),
        ):
            headers = {"Authorization": f"Bearer {world.operator}"}
            answer = await world.client.post(
                "/api/v1/key-rotations", json={"kind": kind, **fields}, headers=headers
            )
            rotation_id = UUID(answer.json()["id"].removeprefix("rot_"))
            for _ in range(500):
                now = utc_now()
                await rotation.run_once(
                    world.database, sealer_of(world), now, grace=timedelta(seconds=1)
                )
                await world.log.settle()
                async with world.database.maintenance() as tx:
                    found = await rotation.read_progress(tx, rotation_id)
                assert found is not None
                if found.row["state"] == "done":
                    break
                assert not any(worker.done() and worker.exception() for worker in workers)
                await asyncio.sleep(0.02)
            assert found.row["state"] == "done"
        write_master_keys(master_keys, NEW)
        held_before = done["held"]
        async with asyncio.timeout(60):
            while min(done.values()) < 10 or done["held"] == held_before:
                assert not any(worker.done() and worker.exception() for worker in workers)
                await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*workers)


async def test_a_lost_master_key_is_got_over_as_the_runbook_says(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenant_id = UUID((await world.sign_up("Acme"))["id"])
    connection_id = await connect(world, tenant_id, "sk_test_lost")
    write_master_keys(master_keys, NEW)
    world.settings.__dict__["sealing"] = process_with(master_keys)
    assert await sign_in(world) == 500
    async with database.admin() as admin:
        await admin.execute("delete from tenants.signing_key")
    await bootstrap.run_once(world.database, world.settings)
    await world.settle()
    assert await sign_in(world) == 200
    await world.call("POST", "/api/v1/tenants/acme/shred", json={"confirm": "acme"})
    await put_secret(world, tenant_id, connection_id, "sk_test_again")
    async with holders(world, database, process_with(master_keys)) as held:
        assert await values_of(held["gateway"][1], tenant_id) == [b"sk_test_again"]


async def test_only_operators_rotate(world: World) -> None:
    await world.sign_up("Acme")
    key = await world.make_key("acme", "members:manage")
    for path, body in (
        ("/api/v1/key-rotations", {"kind": "master"}),
        ("/api/v1/key-rotations", {"kind": "data", "tenant": "acme"}),
        ("/api/v1/tenants/acme/shred", {"confirm": "acme"}),
    ):
        answer = await world.call("POST", path, key=key, json=body)
        assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    "body", [{}, {"kind": "other"}, {"kind": "data"}, {"kind": "master", "tenant": "platform"}]
)
async def test_what_to_rotate_must_be_said(world: World, body: dict[str, str]) -> None:
    answer = await world.call("POST", "/api/v1/key-rotations", json=body)
    assert answer.status_code == 422, answer.text


async def test_rotations_are_listed_and_a_repeated_request_begins_one(world: World) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"kind": "master"}
    made = [
        await world.call("POST", "/api/v1/key-rotations", json=body, headers=headers)
        for _ in range(2)
    ]
    assert made[0].json() == made[1].json()
    await finish(world, made[0].json()["id"])
    await begin(world, "data", tenant="platform")
    first = (await world.call("GET", "/api/v1/key-rotations?limit=1")).json()
    assert [each["kind"] for each in first["items"]] == ["data"]
    path = f"/api/v1/key-rotations?cursor={first['next_cursor']}"
    second = (await world.call("GET", path)).json()
    assert [each["kind"] for each in second["items"]] == ["master"]
    assert second["items"][0]["state"] == "done"


async def test_an_unknown_rotation_is_not_found(world: World) -> None:
    for reference in ("rot_x", f"rot_{PLATFORM_TENANT_ID}"):
        answer = await world.call("GET", f"/api/v1/key-rotations/{reference}")
        assert answer.status_code == 404


async def test_a_data_key_that_does_not_open_is_told_and_holds_up_nobody(
    world: World, database: TestDatabase, master_keys: Path
) -> None:
    tenants = [UUID((await world.sign_up(name))["id"]) for name in ("Acme", "Globex")]
    for tenant_id in tenants:
        await connect(world, tenant_id, "sk_test_x")
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.data_key set wrapped = set_byte(wrapped, 40, get_byte(wrapped, 40) # 1) "
            "where tenant_id = $1",
            tenants[0],
        )
    write_master_keys(master_keys, f"{NEW}\n{OLD}\n")
    rotation_id = await begin(world, "master")
    await step(world)
    found = await progress(world, rotation_id)
    assert found["state"] == "sealing"
    assert "1 data keys do not open" in found["failure"]
    assert found["done"] == 2
