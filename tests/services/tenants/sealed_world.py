"""What tests of sealing share: tenants with secrets, and the services that hold them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from libs.clock import utc_now
from libs.crypto.data_keys import DataKeys
from libs.crypto.settings import Sealing
from libs.crypto.vaults.local import KeyringFile, LocalMasterKeys
from libs.db.pool import Database
from libs.directory.secrets import Secrets
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from services.tenants import rotation, secrets, store_connections
from services.tenants.sealing import Sealer
from tests.services.tenants.conftest import PEPPER, World


def write_master_keys(path: Path, text: str) -> None:
    """Put master keys in place, as an operator does: a whole file at once."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


def sealer_of(world: World) -> Sealer:
    """The sealer that the service's own routes use."""
    return Sealer(world.database, world.settings.sealing)


async def connect(world: World, tenant_id: UUID, value: str) -> UUID:
    """Give a tenant a Stripe connection with a secret key."""
    connection_id = new_id()
    async with world.database.tenant(tenant_id, "test") as tx:
        await store_connections.insert_connection(
            tx, connection_id, "RAW_KEYS", "CONNECTED", "test", utc_now()
        )
    await put_secret(world, tenant_id, connection_id, value)
    return connection_id


async def put_secret(world: World, tenant_id: UUID, connection_id: UUID, value: str) -> None:
    """Make a value the current secret key of a connection."""
    now = utc_now()
    new = await secrets.keep(
        sealer_of(world), tenant_id, "test", "stripe_secret_key", value, pepper=PEPPER, at=now
    )
    async with world.database.tenant(tenant_id, "test") as tx:
        await secrets.enter(
            tx, connection_id, new, actor="test", at=now, overlap=timedelta(hours=1)
        )
        await secrets.publish_secrets(tx, now)
    await world.settle()


async def begin(world: World, kind: str, **fields: Any) -> str:
    answer = await world.call("POST", "/api/v1/key-rotations", json={"kind": kind, **fields})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


async def progress(world: World, rotation_id: str) -> dict[str, Any]:
    answer = await world.call("GET", f"/api/v1/key-rotations/{rotation_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def step(world: World) -> None:
    """What the job does each second, long after the start."""
    await rotation.run_once(world.database, sealer_of(world), utc_now(), grace=timedelta(0))


async def finish(world: World, rotation_id: str) -> dict[str, Any]:
    for _ in range(30):
        await step(world)
        await world.settle()
        found = await progress(world, rotation_id)
        if found["state"] == "done":
            return found
    raise AssertionError(found)


def process_with(path: Path) -> Sealing:
    """What a process that was just started opens with."""
    return Sealing(DataKeys(LocalMasterKeys(KeyringFile(path))))


@asynccontextmanager
async def holders(
    world: World, database: TestDatabase, sealing: Sealing
) -> AsyncGenerator[dict[str, tuple[Database, Secrets]], None]:
    """The two services that hold secrets, fed by the world's log."""
    async with database.open("gateway") as gateway, database.open("stripe_sync") as stripe_sync:
        found = {}
        for opened in (gateway, stripe_sync):
            world.log.add(opened, {}, parks=False)
            found[opened.service] = (opened, Secrets(opened, sealing))
        await world.settle()
        try:
            yield found
        finally:
            world.log._services = [
                each for each in world.log._services if each[0].service == "tenants"
            ]
