"""The health of a connection: told by stripe_sync and by our own looks, alarmed when a key fails."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.audit import KeyUsed, SecurityEventRaised
from libs.contracts.stripe_accounts import (
    StripeAccountChanged,
    StripeAccountDeauthorized,
    StripeCredentialRefused,
)
from libs.testing.databases import TestDatabase
from services.tenants import connection_jobs
from tests.services.tenants.conftest import checksums
from tests.services.tenants.sandbox import SDK_WARNING, Account, StripeWorld

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)

HEALTH = "/api/v1/connect/health"


async def configured(stripe_world: StripeWorld) -> tuple[str, str, Account]:
    """A tenant with raw keys: its id, its API key, its account."""
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert answer.status_code == 201, answer.text
    return tenant, key, account


async def health(stripe_world: StripeWorld, key: str) -> dict[str, Any]:
    answer = await stripe_world.call("GET", HEALTH, key)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def changed(account: str, at: datetime, **fields: Any) -> StripeAccountChanged:
    values = {"charges_enabled": True, "payouts_enabled": True, "details_submitted": True}
    return StripeAccountChanged(account=account, fetched_at=at, **(values | fields))


def alarms(stripe_world: StripeWorld) -> list[str]:
    told = stripe_world.world.log.events(SecurityEventRaised)
    return [event.data.kind for event in told if event.data.kind.startswith("stripe_")]


async def check_keys(stripe_world: StripeWorld) -> None:
    """A day later."""
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute(
            "update stripe_connection set key_check_due_at = now() where key_check_due_at is not null"
        )
    await connection_jobs.check_keys(stripe_world.means)
    await stripe_world.world.settle()


async def test_without_a_connection_it_says_what_to_do(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    body = await health(stripe_world, key)
    assert (body["connected"], body["status"]) == (False, "NOT_CONNECTED")
    assert body["problems"] == ["Connect Stripe first: POST /api/v1/connect/start."]


async def test_it_follows_what_stripe_tells_and_only_later_words(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    body = await health(stripe_world, key)
    assert (body["connected"], body["charges_enabled"], body["problems"]) == (True, True, [])
    now = utc_now()
    fact = changed(account.id, now, charges_enabled=False, requirements_due=("external_account",))
    stripe_world.world.tell(tenant, fact, source="stripe_sync")
    older = changed(account.id, now - timedelta(seconds=1))
    stripe_world.world.tell(tenant, older, source="stripe_sync")
    strangers = changed("acct_strangers", now + timedelta(seconds=1))
    stripe_world.world.tell(tenant, strangers, source="stripe_sync")
    await stripe_world.world.settle()
    body = await health(stripe_world, key)
    assert (body["charges_enabled"], body["requirements_due"]) == (False, ["external_account"])
    assert len(body["problems"]) == 2
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.charges_enabled, told.requirements_due) == (False, ("external_account",))


async def test_uses_show_when_the_key_and_the_webhook_were_last_used(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, _ = await configured(stripe_world)
    connection = str(stripe_world.world.snapshot(tenant).connections[0].connection_id)
    at = utc_now()
    for kind, service in (
        ("stripe_secret_key", "stripe_sync"),
        ("stripe_webhook_secret", "gateway"),
    ):
        use = KeyUsed(kind=kind, object_id=connection, version=1, service=service, used_at=at)
        stripe_world.world.tell(tenant, use, source=service)
    await stripe_world.world.settle()
    body = await health(stripe_world, key)
    for name in ("key_last_used_at", "last_webhook_at"):
        assert datetime.fromisoformat(body[name]) == at


async def test_a_refused_key_raises_the_alarm_once_and_a_new_one_ends_it(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, account = await configured(stripe_world)
    connection = stripe_world.world.snapshot(tenant).connections[0].connection_id
    fact = StripeCredentialRefused(
        account=account.id,
        connection_id=connection,
        credential_version=1,
        code="api_key_expired",
        refused_at=utc_now(),
    )
    for _ in range(2):
        stripe_world.world.tell(tenant, fact, source="stripe_sync")
    await stripe_world.world.settle()
    body = await health(stripe_world, key)
    assert (body["connected"], body["key_valid"]) == (False, False)
    assert body["key_failure"] == "api_key_expired"
    assert alarms(stripe_world) == ["stripe_key_failed"]
    assert stripe_world.world.snapshot(tenant).connections[0].key_valid is False
    newer = stripe_world.sandbox.key(account.id)
    await stripe_world.configure(key, stripe_secret_key=newer)
    # A late word on the version before does not concern the new one.
    stripe_world.world.tell(tenant, fact, source="stripe_sync")
    await stripe_world.world.settle()
    assert (await health(stripe_world, key))["connected"] is True
    assert alarms(stripe_world) == ["stripe_key_failed"]


async def test_keys_are_proved_again_every_day(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    other, others_key, _ = await configured(stripe_world)
    stripe_world.sandbox.revoke(account.secret_key)
    await check_keys(stripe_world)
    assert (await health(stripe_world, key))["key_failure"] == "api_key_expired"
    assert (await health(stripe_world, others_key))["connected"] is True
    await check_keys(stripe_world)
    assert alarms(stripe_world) == ["stripe_key_failed"]
    assert tenant != other


async def test_stripe_being_away_says_nothing_of_the_key(stripe_world: StripeWorld) -> None:
    _, key, _ = await configured(stripe_world)
    stripe_world.sandbox.fault(kind="error", status=500, stored=False, path="/v1/account")
    await check_keys(stripe_world)
    assert (await health(stripe_world, key))["connected"] is True
    assert alarms(stripe_world) == []
    stripe_world.sandbox.mend()


async def test_a_connected_account_that_left_is_seen_by_the_daily_look(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.start_oauth(key)
    back = stripe_world.sandbox.consent(answer.json()["url"], account.id)
    await stripe_world.world.client.get(back.removeprefix("http://127.0.0.1:8080"))
    await stripe_world.world.settle()
    stripe_world.sandbox.control(f"accounts/{account.id}", ready=False)
    await check_keys(stripe_world)
    assert (await health(stripe_world, key))["charges_enabled"] is False
    stripe_world.sandbox.control(f"accounts/{account.id}/disconnect")
    await check_keys(stripe_world)
    body = await health(stripe_world, key)
    assert (body["key_valid"], body["key_failure"]) == (False, "account_invalid")
    assert tenant


async def test_what_is_over_shows_no_flag_of_what_was(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    async with stripe_world.world.database.tenant(UUID(tenant), "test") as tx:
        await tx.execute(
            "update stripe_connection set requirements_due = '{external_account}', "
            "disabled_reason = 'rejected.fraud', key_failure = 'api_key_expired'"
        )
    answer = await stripe_world.call("POST", "/api/v1/connect/disconnect", key)
    assert answer.status_code == 200, answer.text
    body = await health(stripe_world, key)
    flags = ("connected", "charges_enabled", "payouts_enabled", "key_valid", "key_failure")
    assert [body[name] for name in flags] == [False, False, False, False, None]
    assert (body["requirements_due"], body["disabled_reason"], body["webhook"]) == (
        [],
        None,
        "none",
    )
    seen = ("last_webhook_at", "key_last_used_at", "key_checked_at", "checked_at")
    assert [body[name] for name in seen] == [None] * 4
    assert body["stripe_account_id"] == account.id


async def test_a_webhook_of_the_account_before_says_nothing_of_this_one(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, account = await configured(stripe_world)
    connection = stripe_world.world.snapshot(tenant).connections[0].connection_id

    async def webhook_came(version: int = 1) -> datetime | None:
        use = KeyUsed(
            kind="stripe_webhook_secret",
            object_id=str(connection),
            version=version,
            service="gateway",
            used_at=utc_now(),
        )
        stripe_world.world.tell(tenant, use, source="gateway")
        await stripe_world.world.settle()
        return await last_webhook()

    async def last_webhook() -> datetime | None:
        shown = (await health(stripe_world, key))["last_webhook_at"]
        return None if shown is None else datetime.fromisoformat(shown)

    assert await webhook_came()
    # A new key of the same account, or the connection off and on: it is the same account.
    newer = stripe_world.sandbox.key(account.id)
    await stripe_world.configure(key, stripe_secret_key=newer)
    assert await last_webhook()
    # Another account, by its key,
    second = stripe_world.sandbox.account()
    await stripe_world.configure(
        key, stripe_secret_key=second.secret_key, confirm_account_change=True
    )
    assert await last_webhook() is None
    assert await webhook_came(2)
    # then by Connect, which keeps what was seen when the same account agrees again,
    for account_id, is_new in ((account.id, True), (account.id, False)):
        answer = await stripe_world.start_oauth(key, confirm_account_change=True)
        back = stripe_world.sandbox.consent(answer.json()["url"], account_id)
        await stripe_world.world.client.get(back.removeprefix("http://127.0.0.1:8080"))
        await stripe_world.world.settle()
        assert (await last_webhook() is None) == is_new
        assert await webhook_came(0)
    # and once more after it was disconnected.
    await stripe_world.call("POST", "/api/v1/connect/disconnect", key)
    assert await last_webhook() is None
    await stripe_world.configure(
        key, stripe_secret_key=second.secret_key, confirm_account_change=True
    )
    assert await last_webhook() is None


async def test_a_restricted_key_that_may_read_its_account_later_is_connected_then(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    stripe_world.sandbox.fault(kind="error", status=403, stored=False, path="/v1/account")
    narrow = stripe_world.sandbox.key(account.id, "restricted")
    answer = await stripe_world.configure(key, stripe_secret_key=narrow)
    assert (answer.status_code, answer.json()["limited"]) == (201, True)
    refused = await stripe_world.call("GET", "/api/v1/connect/account", key)
    assert (refused.status_code, refused.json()["code"]) == (409, "stripe_not_connected")
    assert "may not read its own account" in refused.json()["detail"]
    stripe_world.sandbox.mend()
    await check_keys(stripe_world)
    assert (await health(stripe_world, key))["stripe_account_id"] == account.id
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.account_id, told.charges_enabled) == (account.id, True)
    shown = await stripe_world.call("GET", "/api/v1/billing/config", key)
    assert shown.json()["limited"] is False
    allowed = await stripe_world.call("GET", "/api/v1/connect/account", key)
    assert allowed.json()["stripe_account_id"] == account.id
    # Another tenant's key of the same account learns nothing.
    _, others = await stripe_world.tenant("Globex")
    stripe_world.sandbox.fault(kind="error", status=403, stored=False, path="/v1/account")
    other = stripe_world.sandbox.key(account.id, "restricted")
    assert (await stripe_world.configure(others, stripe_secret_key=other)).status_code == 201
    stripe_world.sandbox.mend()
    await check_keys(stripe_world)
    assert (await health(stripe_world, others))["stripe_account_id"] is None


async def test_a_replay_changes_nothing(stripe_world: StripeWorld, database: TestDatabase) -> None:
    tenant, key, account = await configured(stripe_world)
    connection = stripe_world.world.snapshot(tenant).connections[0].connection_id
    now = utc_now()
    facts = [
        changed(account.id, now, payouts_enabled=False),
        changed(account.id, now + timedelta(seconds=1)),
        StripeCredentialRefused(
            account=account.id,
            connection_id=connection,
            credential_version=1,
            code="api_key_expired",
            refused_at=now,
        ),
        StripeAccountDeauthorized(
            account=account.id, stripe_event_id="evt_raw", deauthorized_at=now
        ),
    ]
    for fact in facts:
        stripe_world.world.tell(tenant, fact, source="stripe_sync")
    await stripe_world.world.settle()
    assert (await health(stripe_world, key))["key_valid"] is False
    before = await checksums(database)
    for clear in (False, True):
        await stripe_world.world.log.replay(clear_inboxes=clear)
        assert await checksums(database) == before
    assert UUID(tenant)


async def test_connect_first_says_the_problem_and_where(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    answer = await stripe_world.call("GET", "/api/v1/connect/account", key)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_not_connected")
    assert answer.json()["connect_url"] == "/settings/stripe"
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    answer = await stripe_world.call("GET", "/api/v1/connect/account", key)
    assert answer.json() == {
        "account": "tenant",
        "stripe_account_id": account.id,
        "kind": "RAW_KEYS",
    }
