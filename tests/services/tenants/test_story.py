"""The story of a tenant as this service lives it: sign-up, checkout, the clock, replays."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.clock import parse_time, utc_now
from libs.contracts.billing import SubscriptionChanged, SubscriptionStatus
from libs.contracts.stripe_sync import (
    StripeClockAdvanced,
    StripeCommandFailed,
    StripeCustomerLinked,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import (
    DEFAULT_TENANT_ID,
    PLATFORM_TENANT_ID,
    ClockAdvanceRequested,
    TenantCreated,
    TenantSnapshot,
    TenantStatusChanged,
)
from libs.ids import new_id, parse_public_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import EPOCH
from services.tenants import bootstrap, store_tenants
from tenants.conftest import World, checksums


def subscription(
    customer_id: UUID,
    *,
    version: int = 1,
    plan_key: str = "free",
    status: SubscriptionStatus = "active",
    subscription_id: UUID | None = None,
    stripe_subscription_id: str | None = None,
) -> SubscriptionChanged:
    return SubscriptionChanged(
        subscription_id=subscription_id or new_id(),
        version=version,
        customer_id=customer_id,
        billed_by="platform",
        plan_key=plan_key,
        plan_version_id=new_id(),
        status=status,
        collection="stripe",
        currency="EUR",
        period_from=None,
        period_to=None,
        stripe_subscription_id=stripe_subscription_id,
    )


async def test_the_reserved_tenants_exist_and_starting_again_changes_nothing(
    world: World, database: TestDatabase
) -> None:
    platform, default = world.snapshot(PLATFORM_TENANT_ID), world.snapshot(DEFAULT_TENANT_ID)
    assert (platform.slug, default.slug) == ("platform", "default")
    (key,) = platform.api_keys
    assert (key.operator, key.mode) == (True, "test")
    assert len(platform.assertion_keys) == 1
    assert default.assertion_keys == ()
    created = {event.tenant_id for event in world.log.events(TenantCreated)}
    assert created == {PLATFORM_TENANT_ID, DEFAULT_TENANT_ID}
    before = await checksums(database)
    await bootstrap.run_once(world.database, world.settings)
    await world.settle()
    assert await checksums(database) == before


async def test_signing_up_is_one_commit_that_tells_everything(world: World) -> None:
    acme = await world.sign_up(
        "Acme", owner_email="Owner@Acme.example", settings={"billing_email": "bills@acme.example"}
    )
    assert acme["slug"] == "acme"
    assert (acme["type"], acme["status"], acme["currency"]) == ("organization", "active", "EUR")
    assert acme["stripe_onboarding_status"] == "NOT_CONNECTED"
    created = world.log.events(TenantCreated)[-1]
    assert str(created.tenant_id) == acme["id"]
    assert created.mode == "test"
    assert created.data.self_customer_id == parse_public_id("customer", acme["self_customer_id"])
    assert created.data.billing_email is None
    (snapshot,) = [
        event for event in world.log.events(TenantSnapshot) if str(event.tenant_id) == acme["id"]
    ]
    assert (snapshot.mode, snapshot.data.version, snapshot.data.slug) == (None, 1, "acme")
    for path in ("/api/v1/tenants/acme", f"/api/tenants/{acme['id']}", "/api/tenants/ACME"):
        answer = await world.call("GET", path)
        assert (answer.status_code, answer.json()["id"]) == (200, acme["id"])


async def test_a_checkout_brings_stripe_ids_plan_and_status(world: World) -> None:
    acme = await world.sign_up("Acme")
    key = await world.make_key("acme", "billing:manage", "tenants:read")
    customer_id = parse_public_id("customer", acme["self_customer_id"])
    free = subscription(customer_id)
    world.tell(acme["id"], free)
    await world.settle()
    assert world.snapshot(acme["id"]).plan_key == "free"
    world.tell(
        acme["id"],
        StripeCustomerLinked(
            customer_id=customer_id, account="platform", stripe_customer_id="cus_1"
        ),
    )
    world.tell(
        acme["id"],
        StripeSubscriptionChanged(
            version=1,
            account="platform",
            stripe_subscription_id="sub_1",
            stripe_customer_id="cus_1",
            customer_id=customer_id,
            plan_version_id=new_id(),
            status="active",
            period_start=EPOCH,
            period_end=EPOCH + timedelta(days=31),
            cancel_at_period_end=False,
        ),
    )
    pro = free.model_copy(
        update={"version": 2, "plan_key": "pro", "stripe_subscription_id": "sub_1"}
    )
    world.tell(acme["id"], pro)
    await world.settle()
    snapshot = world.snapshot(acme["id"])
    assert (snapshot.plan_key, snapshot.status) == ("pro", "active")
    (stripe,) = snapshot.stripe
    assert (stripe.customer_ids, stripe.subscription_ids) == (("cus_1",), ("sub_1",))
    body = (await world.call("GET", "/api/v1/tenants/acme", key=key)).json()
    assert (body["stripe_customer_id"], body["stripe_subscription_id"]) == ("cus_1", "sub_1")
    status = (await world.call("GET", "/api/v1/tenants/acme/status", key=key)).json()
    assert status == {"tenant_id": acme["id"], "status": "active", "plan_key": "pro"}
    assert world.log.events(TenantStatusChanged) == []


SHOWN: dict[SubscriptionStatus, str] = {
    "trialing": "trialing",
    "past_due": "past_due",
    "incomplete": "past_due",
    "unpaid": "suspended",
    "paused": "suspended",
    "canceled": "canceled",
    "active": "active",
}


async def test_the_status_follows_the_subscription(world: World) -> None:
    acme = await world.sign_up("Acme")
    first = subscription(parse_public_id("customer", acme["self_customer_id"]))
    before = "active"
    for version, (told, shown) in enumerate(SHOWN.items(), start=2):
        world.tell(acme["id"], first.model_copy(update={"status": told, "version": version}))
        world.tell(acme["id"], first)
        world.tell(acme["id"], subscription(new_id(), status="unpaid", version=99))
        await world.settle()
        assert (await world.call("GET", "/api/v1/tenants/acme")).json()["status"] == shown
        changes = [e.data for e in world.log.events(TenantStatusChanged)]
        if shown != before:
            assert (changes[-1].from_status, changes[-1].to_status) == (before, shown)
        before = shown
    assert len(changes) == 5


async def test_the_clock_moves_hop_by_hop_and_never_back(world: World) -> None:
    acme = await world.sign_up("Acme")
    path = "/api/v1/tenants/acme/clock"
    start = utc_now()
    target = start + timedelta(days=40)
    answer = await world.call("POST", path, json={"advance_to": target.isoformat()})
    assert (answer.status_code, answer.json()["status"]) == (202, "advancing")
    (asked,) = world.log.events(ClockAdvanceRequested)
    assert (asked.mode, asked.data.advance_to) == ("test", target)
    again = await world.call("POST", path, json={"advance_to": target.isoformat()})
    assert (again.status_code, again.json()["code"]) == (409, "clock_advancing")
    hops = [target - timedelta(days=10), target]
    for hop in hops:
        fact = StripeClockAdvanced(
            advance_id=asked.data.advance_id, reached=hop, final=hop == target
        )
        world.tell(acme["id"], fact, source="stripe_sync")
        await world.settle()
        clock = (await world.call("GET", path)).json()
        assert hop <= parse_time(clock["business_now"]) < hop + timedelta(minutes=1)
        assert clock["status"] == ("ready" if hop == target else "advancing")
    offset = world.snapshot(acme["id"]).clock_offset_seconds
    assert offset >= 40 * 86_400 - 60
    late = StripeClockAdvanced(advance_id=asked.data.advance_id, reached=start, final=False)
    world.tell(acme["id"], late, source="stripe_sync")
    await world.settle()
    assert world.snapshot(acme["id"]).clock_offset_seconds == offset


@pytest.mark.parametrize("read", ["find_tenant", "latest_advance"])
async def test_ready_is_said_of_where_the_last_hop_led(
    world: World, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The last hop is followed between the two things that are read of a clock."""
    acme = await world.sign_up("Acme")
    path, target = "/api/v1/tenants/acme/clock", utc_now() + timedelta(days=40)
    await world.call("POST", path, json={"advance_to": target.isoformat()})
    (asked,) = world.log.events(ClockAdvanceRequested)
    last = StripeClockAdvanced(advance_id=asked.data.advance_id, reached=target, final=True)
    before = getattr(store_tenants, read)

    async def with_a_hop_before(*arguments: Any) -> Any:
        monkeypatch.undo()
        world.tell(acme["id"], last, source="stripe_sync")
        await world.settle()
        return await before(*arguments)

    monkeypatch.setattr(store_tenants, read, with_a_hop_before)
    clock = (await world.call("GET", path)).json()
    assert clock["status"] == "advancing" or parse_time(clock["business_now"]) >= target
    assert (await world.call("GET", path)).json()["status"] == "ready"


async def test_the_clock_goes_forward_two_years_at_most(world: World) -> None:
    acme = await world.sign_up("Acme")
    start = utc_now()
    reached = StripeClockAdvanced(
        advance_id=new_id(), reached=start + timedelta(days=40), final=True
    )
    world.tell(acme["id"], reached, source="stripe_sync")
    await world.settle()
    path = "/api/v1/tenants/acme/clock"
    for days in (-1, 39, 40 + 732):
        body = {"advance_to": (start + timedelta(days=days)).isoformat()}
        assert (await world.call("POST", path, json=body)).status_code == 422
    for odd in ("tomorrow", "2027-01-01T00:00:00", "9999-12-31T23:59:59Z", None, 7e300):
        answer = await world.call("POST", path, json={"advance_to": odd})
        assert answer.status_code == 422, odd
    assert world.log.events(ClockAdvanceRequested) == []


async def test_a_move_that_stripe_refuses_is_over(world: World) -> None:
    acme = await world.sign_up("Acme")
    path = "/api/v1/tenants/acme/clock"
    body = {"advance_to": (utc_now() + timedelta(days=1)).isoformat()}
    await world.call("POST", path, json=body)
    (asked,) = world.log.events(ClockAdvanceRequested)
    refused = StripeCommandFailed(
        command_id=asked.data.advance_id, code="clock_gone", detail="There is no such clock."
    )
    world.tell(acme["id"], refused, source="stripe_sync")
    await world.settle()
    clock = (await world.call("GET", path)).json()
    assert (clock["status"], clock["failure"]) == ("ready", "clock_gone: There is no such clock.")
    assert (await world.call("POST", path, json=body)).status_code == 202


async def test_replay_changes_nothing(world: World, database: TestDatabase) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    customer_id = parse_public_id("customer", acme["self_customer_id"])
    await world.make_key("acme", "usage:write")
    free = subscription(customer_id)
    for fact in (
        free,
        StripeCustomerLinked(
            customer_id=customer_id, account="platform", stripe_customer_id="cus_1"
        ),
        free.model_copy(update={"version": 2, "plan_key": "pro", "status": "past_due"}),
        free.model_copy(update={"version": 3, "plan_key": "pro", "status": "active"}),
    ):
        world.tell(acme["id"], fact)
        await world.settle()
    target = utc_now() + timedelta(days=40)
    await world.call("POST", "/api/v1/tenants/acme/clock", json={"advance_to": target.isoformat()})
    (asked,) = world.log.events(ClockAdvanceRequested)
    for final in (False, True):
        reached = target if final else target - timedelta(days=9)
        hop = StripeClockAdvanced(advance_id=asked.data.advance_id, reached=reached, final=final)
        world.tell(acme["id"], hop, source="stripe_sync")
        await world.settle()
    before = await checksums(database)
    assert len(world.log.events(TenantStatusChanged)) == 2
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before
