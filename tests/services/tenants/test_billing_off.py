"""With billing off the tenant everything lives under is active, whatever is told of it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from libs.contracts.billing import SubscriptionChanged, SubscriptionStatus
from libs.contracts.tenants import DEFAULT_TENANT_ID, TenantStatusChanged
from libs.ids import new_id
from libs.testing.memory_log import EPOCH
from services.tenants import billing_off
from tenants.conftest import World


async def tell(world: World, tenant_id: Any, status: SubscriptionStatus, version: int) -> None:
    record = world.snapshot(tenant_id)
    fact = SubscriptionChanged(
        subscription_id=UUID(int=7),
        version=version,
        customer_id=record.self_customer_id,
        billed_by="platform",
        plan_key="pro",
        plan_version_id=new_id(),
        status=status,
        collection="stripe",
        currency="EUR",
        period_from=EPOCH,
        period_to=EPOCH + timedelta(days=31),
    )
    world.tell(tenant_id, fact)
    await world.settle()


async def switch(world: World, *, on: bool, tenant: str = "default") -> None:
    changes = {"stripe_enabled": on, "default_tenant_id": tenant}
    await billing_off.run_once(world.database, world.settings.model_copy(update=changes))
    await world.settle()


async def status_of(world: World, slug: str) -> str:
    answer = await world.call("GET", f"/api/v1/tenants/{slug}/status")
    status: str = answer.json()["status"]
    return status


async def test_default_is_active_while_billing_is_off(world: World) -> None:
    await tell(world, DEFAULT_TENANT_ID, "past_due", 1)
    assert await status_of(world, "default") == "past_due"
    await switch(world, on=False)
    assert await status_of(world, "default") == "active"
    await tell(world, DEFAULT_TENANT_ID, "unpaid", 2)
    assert await status_of(world, "default") == "active"
    version = world.snapshot(DEFAULT_TENANT_ID).version
    await switch(world, on=False)
    assert world.snapshot(DEFAULT_TENANT_ID).version == version
    await switch(world, on=True)
    assert await status_of(world, "default") == "suspended"
    told = [
        (e.data.from_status, e.data.to_status)
        for e in world.log.events(TenantStatusChanged)
        if e.tenant_id == DEFAULT_TENANT_ID
    ]
    assert told == [("active", "past_due"), ("past_due", "active"), ("active", "suspended")]


async def test_another_tenant_may_be_the_default_one(world: World) -> None:
    acme = await world.sign_up("Acme")
    await tell(world, acme["id"], "past_due", 1)
    for reference in ("acme", acme["id"]):
        await switch(world, on=False, tenant=reference)
        assert await status_of(world, "acme") == "active"
    await switch(world, on=False)
    assert await status_of(world, "acme") == "past_due"
    await switch(world, on=False, tenant="nobody")
    assert await status_of(world, "acme") == "past_due"
