"""Whose key a call is made with: rotation, refusal and disconnecting, each for its tenant alone."""

import asyncio
import time
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_accounts import (
    StripeAccountChanged,
    StripeAccountDeauthorized,
    StripeCredentialRefused,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.messaging.key_use import KEY_USES
from libs.testing.memory_log import MemoryLog
from services.stripe_sync import client, identities
from services.stripe_sync.client import (
    FAILURES_BEFORE_BREAKING,
    StripeCallError,
    StripeMissingError,
    StripeStoppedError,
    StripeTransientError,
)
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import World, make_world


@pytest.fixture(autouse=True)
def _another_key_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "RENEWAL_SECONDS", 0.1)


async def test_each_account_is_called_with_its_own_key_and_mirrored_for_its_tenant(
    world: World,
) -> None:
    raw = await own_account(world, "acme")
    connected = await own_account(world, "globex", "CONNECT_STANDARD")
    await world.settle()
    for own, other in ((raw, connected), (connected, raw)):
        forged = {"tenant_id": str(other.tenant.id), "customer_id": str(other.tenant.customer_id)}
        customer = await own.create_customer(name="Buyer", metadata=forged)
        with pytest.raises(StripeMissingError):
            await (await other.api()).get("customer.retrieve", f"/v1/customers/{customer['id']}")
        own.deliver(own.events()[-1])
        await world.settle()
        mirrored = [
            row for row in await world.rows("stripe_object") if row["object_id"] == customer["id"]
        ]
        assert [(row["tenant_id"], row["account"]) for row in mirrored] == [
            (own.tenant.id, own.account)
        ]
    told = {fact.data.account: fact.tenant_id for fact in world.log.events(StripeAccountChanged)}
    assert told == {raw.account: raw.tenant.id, connected.account: connected.tenant.id}
    used = [key for key, _ in KEY_USES.due(utc_now()) if key.tenant_id == raw.tenant.id]
    assert [(key.kind, key.object_id, key.version) for key in used] == [
        ("stripe_secret_key", raw.connection_id, 1)
    ]
    assert not [key for key, _ in KEY_USES.due(utc_now()) if key.tenant_id == connected.tenant.id]


async def test_health_is_known_without_a_webhook_and_told_only_when_it_changes(
    world: World,
) -> None:
    own = await own_account(world, "acme", "CONNECT_STANDARD")
    await world.settle()
    (first,) = world.log.events(StripeAccountChanged)
    assert (first.data.charges_enabled, first.data.requirements_due) == (True, ())
    own.deliver(own.events()[-1])
    await own.tell(charges_enabled=True)
    await world.settle()
    assert len(world.log.events(StripeAccountChanged)) == 1
    world.sandbox.client.post(f"/_sim/accounts/{own.account}", json={"ready": False})
    own.deliver(own.events()[-1])
    await world.settle()
    second = world.log.events(StripeAccountChanged)[-1].data
    assert not second.charges_enabled
    assert second.requirements_due
    (kept,) = [r for r in await world.rows("stripe_object") if r["object_type"] == "account"]
    assert "email" not in kept["raw"]
    await own.tell(status="REVOKED")
    await world.watch.run_once()
    await own.tell(status="CONNECTED")
    await world.settle()
    assert len(world.log.events(StripeAccountChanged)) == 3


async def test_a_thin_event_of_the_platforms_tells_of_a_tenants_account(world: World) -> None:
    own = await own_account(world, "acme", "CONNECT_STANDARD")
    await world.settle()
    world.sandbox.client.post(f"/_sim/accounts/{own.account}", json={"ready": False})
    thin = StripeEventReceived(
        account="platform",
        stripe_event_id="evt_thin",
        event_type="v2.core.account[requirements].updated",
        api_version=None,
        created_at=utc_now(),
        object_type="v2.core.account",
        object_id=own.account,
        payload=None,
    )
    # One that nobody could be given says nothing of an account: the platform has none of that name.
    await world.publish(thin, PLATFORM_TENANT_ID)
    assert await world.rows("dirty_object") == []
    await world.publish(thin.model_copy(update={"stripe_event_id": "evt_2"}), own.tenant.id)
    await world.settle()
    told = world.log.events(StripeAccountChanged)[-1]
    assert (told.tenant_id, told.data.charges_enabled) == (own.tenant.id, False)
    assert told.data.requirements_due


async def test_a_tenants_thin_event_tells_of_its_own_account_alone(world: World) -> None:
    own = await own_account(world, "acme")
    stranger = await own_account(world, "globex")
    await world.settle()
    thin = StripeEventReceived(
        account=own.account,
        stripe_event_id="evt_thin",
        event_type="v2.core.account[requirements].updated",
        api_version=None,
        created_at=utc_now(),
        object_type="v2.core.account",
        object_id=stranger.account,
        payload=None,
    )
    await world.publish(thin, own.tenant.id)
    (row,) = await world.rows("dirty_object")
    assert (row["account"], row["object_id"]) == (own.account, own.account)


async def calls(own: Own, until: asyncio.Event) -> tuple[int, list[StripeCallError]]:
    """Read and write without a pause; how many calls succeeded, and the errors of the others."""
    done, errors = 0, []
    while not until.is_set():
        try:
            await (await own.api()).get("customer.list", "/v1/customers", {"limit": 1})
            await own.create_customer(name=str(done))
            done += 2
        except StripeCallError as error:
            errors.append(error)
            await asyncio.sleep(0.01)
    return done, errors


async def test_a_key_is_rotated_under_load_without_a_failed_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "RENEWAL_SECONDS", 60)
    own = await own_account(world, "acme")
    stop = asyncio.Event()
    load = [asyncio.create_task(calls(own, stop)) for _ in range(3)]
    for _ in range(2):
        await asyncio.sleep(0.5)
        old, own.key = own.key, own.new_key()
        own.key_version += 1
        # The worst order: the old key is worthless before anybody here has heard of the new one.
        own.revoke(old)
        await asyncio.sleep(0.3)
        await own.give_keys(own.key, old)
        await own.tell()
    await asyncio.sleep(0.5)
    stop.set()
    outcomes = await asyncio.gather(*load)
    assert [errors for _, errors in outcomes] == [[], [], []]
    created = sum(1 for event in own.events() if event["type"] == "customer.created")
    assert created == sum(done for done, _ in outcomes) // 2
    assert world.log.events(StripeCredentialRefused) == []


async def test_a_revoked_key_stops_its_tenant_alone_until_there_is_another(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    sick, well = await own_account(world, "acme"), await own_account(world, "globex")
    await world.settle()
    lost = await sick.create_customer(name="Lost")
    event = sick.events()[-1]
    stop = asyncio.Event()
    load = asyncio.create_task(calls(well, stop))
    sick.revoke(sick.key)
    sick.deliver(event)
    with pytest.raises(StripeStoppedError):
        await (await sick.api()).get("customer.list", "/v1/customers")
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(StripeStoppedError, match="no_credential"):
            await (await sick.api()).get("customer.list", "/v1/customers")
    assert time.monotonic() - started < 20, "a refused key is not tried again at once"
    await world.log.settle()
    await world.work()
    await world.log.settle()
    (refused,) = world.log.events(StripeCredentialRefused)
    assert refused.tenant_id == sick.tenant.id
    assert (refused.data.connection_id, refused.data.credential_version) == (sick.connection_id, 1)
    assert [row["object_id"] for row in await world.pending()] == [lost["id"]]

    old, sick.key = sick.key, sick.new_key()
    sick.key_version = 2
    await sick.give_keys(sick.key)
    await sick.tell()
    await world.settle()
    assert lost["id"] in {row["object_id"] for row in await world.rows("stripe_object")}
    stop.set()
    done, errors = await load
    assert done > 0
    assert errors == []
    assert len(world.log.events(StripeCredentialRefused)) == 1
    told = "".join(capfd.readouterr())
    assert "stripe_credential_refused" in told
    assert not [key for key in (old, sick.key, well.key) if key in told]


async def test_after_a_restart_a_refused_version_is_not_told_again(world: World) -> None:
    own = await own_account(world, "acme")
    own.revoke(own.key)
    for _ in range(2):
        async with make_world(world.test_database, MemoryLog(), world.sandbox) as again:
            identity = await again.identities.of(own.account, "test")
            assert identity is not None
            with pytest.raises(StripeStoppedError):
                await identity.api.get("account.retrieve", "/v1/account")
    await world.log.settle()
    assert len(world.log.events(StripeCredentialRefused)) == 1


async def test_a_tenant_that_leaves_at_stripe_is_told_once_and_left_alone(world: World) -> None:
    own = await own_account(world, "acme", "CONNECT_STANDARD")
    await world.settle()
    await own.create_customer(name="Late")
    created = own.events()[-1]
    world.sandbox.client.post(f"/_sim/accounts/{own.account}/disconnect")
    gone = own.events()[-1]
    assert gone["type"] == "account.application.deauthorized"
    own.deliver(created)
    own.deliver(gone)
    await world.log.settle()
    assert await world.rows("dirty_object") == []
    own.deliver(gone)
    await world.settle()
    (fact,) = world.log.events(StripeAccountDeauthorized)
    assert (fact.tenant_id, fact.data.account) == (own.tenant.id, own.account)
    assert fact.data.stripe_event_id == gone["id"]
    with pytest.raises(StripeStoppedError, match="account_invalid"):
        await (await own.api()).get("customer.list", "/v1/customers")
    with pytest.raises(StripeStoppedError, match="access_refused"):
        await (await own.api()).get("customer.list", "/v1/customers")
    await world.log.settle()
    (refused,) = world.log.events(StripeCredentialRefused)
    assert refused.data.credential_version == 0
    await own.tell(status="REVOKED")
    own.deliver(created)
    await world.settle()
    assert await world.identities.of(own.account, "test") is None


async def test_a_connection_that_is_off_is_not_called_and_goes_on_when_it_is_on(
    world: World,
) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    customer = await own.create_customer(name="Waiting")
    await own.tell(is_active=False)
    own.deliver(own.events()[-1])
    await world.log.settle()
    await world.work()
    assert [row["object_id"] for row in await world.pending()] == [customer["id"]]
    with pytest.raises(StripeStoppedError, match="not_connected"):
        await (await own.api()).get("account.retrieve", "/v1/account")
    await own.tell(is_active=True)
    await world.settle()
    assert customer["id"] in {row["object_id"] for row in await world.rows("stripe_object")}


async def test_a_key_of_another_account_or_connection_is_of_no_use(world: World) -> None:
    own, other = await own_account(world, "acme"), await own_account(world, "globex")
    own.key_version = 2
    await own.give_keys(other.key)
    await world.log.settle()
    await world.watch.run_once()
    await world.work()
    told = [fact.data.account for fact in world.log.events(StripeAccountChanged)]
    assert own.account not in told
    assert any("speaks for" in (row["last_error"] or "") for row in await world.pending())
    stray, stray.connection_id = other, own.connection_id
    await stray.give_keys(other.key)
    with pytest.raises(StripeStoppedError, match="no_credential"):
        await (await stray.api()).get("account.retrieve", "/v1/account")


async def test_replaying_everything_changes_nothing(world: World) -> None:
    raw = await own_account(world, "acme")
    connected = await own_account(world, "globex", "CONNECT_STANDARD")
    for own in (raw, connected):
        await own.create_customer(name="Buyer")
        own.deliver(own.events()[-1])
    await world.settle()
    world.sandbox.client.post(f"/_sim/accounts/{connected.account}/disconnect")
    connected.deliver(connected.events()[-1])
    await world.settle()
    await connected.tell(status="REVOKED")
    await world.settle()
    before: dict[str, Any] = await world.checksum()
    sent = len(await world.rows("outbox"))
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        await world.settle()
        assert await world.checksum() | {"dirty_object": ""} == before | {"dirty_object": ""}
        assert len(await world.rows("outbox")) == sent


async def test_an_account_that_only_fails_is_left_alone_and_no_other_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BREAK_SECONDS_MIN", 3600.0)
    sick, well = await own_account(world, "acme"), await own_account(world, "globex")
    world.sandbox.fault(kind="error", status=500, path="/v1/customers", count=1000)
    api = await sick.api()
    failed = await asyncio.gather(
        *(api.get("customer.list", "/v1/customers") for _ in range(FAILURES_BEFORE_BREAKING)),
        return_exceptions=True,
    )
    assert all(isinstance(error, StripeTransientError) for error in failed)
    world.sandbox.mend()
    with pytest.raises(StripeTransientError, match="circuit_open"):
        await api.get("customer.list", "/v1/customers")
    await (await well.api()).get("customer.list", "/v1/customers")
    api._breaker._closed_until = time.monotonic()
    for _ in range(2):
        await api.get("customer.list", "/v1/customers")
