"""Records that another version of the code told: told once more, each tenant by itself."""

from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from libs.clock import utc_now
from libs.contracts.tenants import TenantSnapshot
from libs.db.pool import Tx
from services.tenants import jobs, snapshot, store_tenants
from tests.services.tenants.conftest import World


async def told(world: World, tenant_id: str) -> list[int]:
    """The versions of a tenant's record that are on the topic."""
    await world.settle()
    events = world.log.events(TenantSnapshot)
    return [event.data.version for event in events if event.tenant_id == UUID(tenant_id)]


async def test_what_a_process_of_before_told_meanwhile_is_told_anew_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await world.sign_up("Acme")
    first = await told(world, acme["id"])

    async def raise_version(tx: Tx, at: Any, _format: int) -> Any:
        """As the release before: it knows of no form."""
        return await tx.fetchrow(
            "update tenant set version = version + 1, updated_at = $2 where tenant_id = $1 "
            "returning *",
            tx.tenant_id,
            at,
        )

    with monkeypatch.context() as patch:
        patch.setattr(store_tenants, "raise_version", raise_version)
        async with world.database.tenant(UUID(acme["id"]), None) as tx:
            await snapshot.publish(tx, utc_now())
    assert await told(world, acme["id"]) == [*first, first[-1] + 1]
    for _ in range(2):
        await jobs.tell_anew(world.database)
    assert await told(world, acme["id"]) == [*first, first[-1] + 1, first[-1] + 2]


async def test_a_record_that_cannot_be_told_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [(await world.sign_up(name))["id"] for name in ("Acme", "Globex", "Initech")]
    before = [await told(world, tenant) for tenant in tenants]
    monkeypatch.setattr(snapshot, "RECORD_FORMAT", snapshot.RECORD_FORMAT + 1)
    publish = snapshot.publish

    async def fail_for_one(tx: Tx, at: Any) -> int:
        if str(tx.tenant_id) == tenants[1]:
            raise ValueError("this record")
        return await publish(tx, at)

    monkeypatch.setattr(snapshot, "publish", fail_for_one)
    with capture_logs() as logs:
        await jobs.tell_anew(world.database)
    failed = [each for each in logs if each["event"] == "record_not_told_anew"]
    assert [each["tenant_id"] for each in failed] == [tenants[1]]
    after = [await told(world, tenant) for tenant in tenants]
    assert [len(new) - len(old) for old, new in zip(before, after, strict=True)] == [1, 0, 1]
