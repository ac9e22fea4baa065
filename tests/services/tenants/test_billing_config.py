"""A tenant's own Stripe keys: proved before they are kept, never shown, one account per tenant."""

import asyncio
import base64
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.audit import ConfigurationChanged
from services.tenants import secrets, webhooks
from tests.services.tenants.sandbox import CONFIG, PLATFORM_KEY, SDK_WARNING, StripeWorld

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)


async def test_keys_are_proved_kept_and_never_shown(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.configure(
        key,
        stripe_secret_key=account.secret_key,
        stripe_publishable_key=account.publishable_key,
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["stripe_account_id"] == account.id
    assert (body["kind"], body["status"], body["is_active"]) == ("RAW_KEYS", "CONNECTED", True)
    assert body["stripe_publishable_key"] == account.publishable_key
    assert body["secret_key"]["last4"] == account.secret_key[-4:]
    assert (body["secret_key"]["version"], body["secret_key"]["valid"]) == (1, True)
    assert "Stripe Connect avoids that" in body["warnings"][0]
    assert body["webhook"]["status"] == "registered"
    assert body["webhook"]["url"] is None
    assert account.secret_key not in answer.text
    assert (await stripe_world.call("GET", CONFIG, key)).json()["secret_key"] == body["secret_key"]

    (endpoint,) = stripe_world.sandbox.endpoints(account.secret_key)
    token = endpoint["url"].rpartition("/")[2]
    assert endpoint["url"] == f"http://127.0.0.1:8080/api/webhooks/stripe/{token}"
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.account_id, told.credential_version, told.charges_enabled) == (account.id, 1, True)
    assert len(token) == 43
    assert len(told.webhook_token_hashes) == 1
    assert {each.name for each in stripe_world.secrets(tenant).secrets} == {
        "stripe_secret_key",
        "stripe_webhook_secret",
    }


async def test_what_is_told_opens_to_the_key_in_its_place_only(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    told = stripe_world.secrets(tenant)
    (record,) = [each for each in told.secrets if each.name == "stripe_secret_key"]
    assert record.sealed is not None
    (row,) = [r for r in await stripe_world.rows(tenant) if r["name"] == "stripe_secret_key"]
    assert base64.b64decode(record.sealed) == row["sealed"]
    assert await secrets.read(stripe_world.means.sealer, UUID(tenant), row) == account.secret_key


BAD = {
    "stripe_key_rejected": {"stripe_secret_key": "sk_test_nobody_has_this_key"},
    "stripe_key_publishable": {"stripe_secret_key": "pk_test_1234567890"},
    "stripe_key_malformed": {"stripe_secret_key": "sk_test_12 34"},
    "stripe_key_wrong_mode": {"stripe_secret_key": "sk_live_1234567890"},
    "stripe_publishable_key_malformed": {"stripe_publishable_key": "sk_test_1234567890"},
    "stripe_publishable_key_wrong_mode": {"stripe_publishable_key": "pk_live_1234567890"},
    "stripe_webhook_secret_malformed": {"webhook_secret": "not_a_signing_one"},
}


@pytest.mark.parametrize(("code", "fields"), BAD.items(), ids=BAD)
@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
async def test_bad_keys_are_refused_and_change_nothing(
    stripe_world: StripeWorld, code: str, fields: dict[str, str], before: bool
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    if before:
        await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    version = stripe_world.world.snapshot(tenant).version
    answer = await stripe_world.configure(
        key, **({"stripe_secret_key": account.secret_key} | fields)
    )
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert all(value not in answer.text for value in fields.values())
    assert stripe_world.world.snapshot(tenant).version == version
    shown = await stripe_world.call("GET", CONFIG, key)
    assert shown.status_code == (200 if before else 404)
    if before:
        assert shown.json()["secret_key"]["version"] == 1
    else:
        assert await stripe_world.rows(tenant) == []


async def test_a_truncated_and_a_revoked_key_are_refused(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    stripe_world.sandbox.revoke(revoked := stripe_world.sandbox.key(account.id))
    for bad in (account.secret_key[:-1], revoked):
        answer = await stripe_world.configure(key, stripe_secret_key=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "stripe_key_rejected")


async def test_camel_case_names_and_the_alias_are_accepted(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    body = {
        "stripeSecretKey": account.secret_key,
        "stripePublishableKey": account.publishable_key,
        "webhookSecret": "whsec_of_an_endpoint_of_their_own",
    }
    answer = await stripe_world.call("POST", "/api/billing/config", key, json=body)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert shown["webhook"]["status"] == "given"
    assert shown["webhook"]["secret"]["last4"] == "_own"
    assert shown["webhook"]["url"].startswith("http://127.0.0.1:8080/api/webhooks/stripe/")
    assert stripe_world.sandbox.endpoints(account.secret_key) == []
    # The URL is shown once: only its hash is kept.
    again = await stripe_world.call("GET", "/api/billing/config", key)
    assert again.json()["webhook"]["url"] is None


async def test_another_account_needs_a_confirmation_and_leaves_nothing_of_the_first(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    first, second = stripe_world.sandbox.account(), stripe_world.sandbox.account()
    await stripe_world.configure(
        key, stripe_secret_key=first.secret_key, stripe_publishable_key=first.publishable_key
    )
    answer = await stripe_world.configure(key, stripe_secret_key=second.secret_key)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_differs")
    assert (await stripe_world.connection(tenant))["account_id"] == first.id
    tokens = stripe_world.world.snapshot(tenant).connections[0].webhook_token_hashes
    answer = await stripe_world.configure(
        key, stripe_secret_key=second.secret_key, confirm_account_change=True
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["stripe_account_id"] == second.id
    assert answer.json()["stripe_publishable_key"] is None
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert not set(tokens) & set(told.webhook_token_hashes)
    versions = {(each.name, each.version) for each in stripe_world.secrets(tenant).secrets}
    assert versions == {("stripe_secret_key", 2), ("stripe_webhook_secret", 2)}


async def test_an_account_belongs_to_one_tenant(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    other, others_key = await stripe_world.tenant("Globex")
    account = stripe_world.sandbox.account()
    assert (await stripe_world.configure(key, stripe_secret_key=account.secret_key)).is_success
    answer = await stripe_world.configure(others_key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_taken")
    assert await stripe_world.rows(other) == []
    assert (await stripe_world.call("GET", CONFIG, others_key)).status_code == 404


async def test_a_race_for_an_account_has_one_winner(stripe_world: StripeWorld) -> None:
    keys = [(await stripe_world.tenant(f"Racer {number}"))[1] for number in range(4)]
    account = stripe_world.sandbox.account()
    bodies = {"stripe_secret_key": account.secret_key, "webhook_secret": "whsec_given"}
    answers = await asyncio.gather(
        *(
            stripe_world.world.client.post(
                CONFIG, json=bodies, headers={"Authorization": f"Bearer {key}"}
            )
            for key in keys
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_restricted_keys(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    narrow = stripe_world.sandbox.key(account.id, "restricted", ["customers:read"])
    answer = await stripe_world.configure(key, stripe_secret_key=narrow)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["limited"], answer.json()["stripe_account_id"]) == (True, None)
    assert "may not read its own account" in answer.json()["warnings"][1]
    webhook = answer.json()["webhook"]
    # Stripe did not let the key register it: the address is there to be entered by hand.
    assert (webhook["status"], webhook["failure"]) == ("none", "more_permissions_required")
    assert webhook["url"].startswith("http://127.0.0.1:8080/api/webhooks/stripe/")

    wide = stripe_world.sandbox.key(account.id, "restricted")
    answer = await stripe_world.configure(key, stripe_secret_key=wide)
    assert (answer.status_code, answer.json()["stripe_account_id"]) == (200, account.id)
    answer = await stripe_world.configure(key, stripe_secret_key=narrow)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_unknown")
    assert (await stripe_world.connection(tenant))["limited"] is False
    # Confirmed, it may be of any account: nothing of the one before is used, or believed, for it.
    answer = await stripe_world.configure(
        key, stripe_secret_key=narrow, confirm_account_change=True
    )
    assert (answer.json()["limited"], answer.json()["stripe_account_id"]) == (True, None)
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert (told.account_id, told.charges_enabled, told.payouts_enabled) == (None, False, False)
    kept = {(e.name, e.version) for e in stripe_world.secrets(tenant).secrets}
    assert ("stripe_secret_key", 2) not in kept
    assert ("stripe_secret_key", 3) in kept
    # One unknown account after another: nothing says that they are the same.
    other = stripe_world.sandbox.key(account.id, "restricted", ["customers:read"])
    answer = await stripe_world.configure(key, stripe_secret_key=narrow)
    assert answer.status_code == 200, answer.text
    answer = await stripe_world.configure(key, stripe_secret_key=other)
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_account_unknown")
    answer = await stripe_world.configure(key, stripe_secret_key=other, confirm_account_change=True)
    assert (answer.status_code, answer.json()["limited"]) == (200, True)
    kept = {(e.name, e.version) for e in stripe_world.secrets(tenant).secrets}
    assert ("stripe_secret_key", 3) not in kept


async def test_off_and_on_again_keeps_the_keys(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    answer = await stripe_world.call("PATCH", CONFIG, key, json={"is_active": False})
    assert (answer.status_code, answer.json()["is_active"]) == (200, False)
    assert stripe_world.world.snapshot(tenant).connections[0].is_active is False
    answer = await stripe_world.call("PATCH", CONFIG, key, json={"isActive": True})
    assert answer.json()["secret_key"]["version"] == 1
    assert stripe_world.world.snapshot(tenant).connections[0].is_active is True


async def test_stripe_away_changes_nothing_and_a_webhook_is_registered_later(
    stripe_world: StripeWorld,
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    fault = {"kind": "error", "status": 500, "stored": False}
    stripe_world.sandbox.fault(**fault, path="/v1/account")
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["code"]) == (503, "stripe_unavailable")
    assert await stripe_world.rows(tenant) == []
    stripe_world.sandbox.mend()
    stripe_world.sandbox.fault(**fault, path="/v1/webhook_endpoints")
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["webhook"]["status"]) == (201, "registering")
    stripe_world.sandbox.mend()
    await _make_due(stripe_world)
    await webhooks.run_once(stripe_world.means)
    shown = await stripe_world.call("GET", CONFIG, key)
    assert shown.json()["webhook"]["status"] == "registered"
    assert len(stripe_world.sandbox.endpoints(account.secret_key)) == 1


async def test_the_platforms_own_account_gets_no_second_webhook(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    answer = await stripe_world.configure(key, stripe_secret_key=PLATFORM_KEY)
    assert answer.status_code == 201, answer.text
    assert answer.json()["webhook"]["status"] == "none"
    assert "platform's own Stripe account" in answer.json()["warnings"][1]


async def test_hostile_bodies_are_refused_without_their_values(stripe_world: StripeWorld) -> None:
    _, key = await stripe_world.tenant("Acme")
    canary = "sk_test_canary0123456789"
    for body in (
        {"stripe_secret_key": canary, "unknown": canary},
        {"stripe_secret_key": [canary]},
        {"stripe_secret_key": canary + "\x00"},
        {"stripe_secret_key": canary * 100},
        {"stripe_secret_key": canary, "stripeSecretKey": canary, "overlap_seconds": -1},
        {"stripe_secret_key": ""},
        {},
    ):
        answer = await stripe_world.call("POST", CONFIG, key, json=body)
        assert 400 <= answer.status_code < 500, answer.text
        assert "canary" not in answer.text


async def test_who_may(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    reader = await stripe_world.world.make_key(tenant, "billing:read")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.configure(reader, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_billing_permissions")
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (await stripe_world.call("GET", CONFIG, reader)).status_code == 200
    answer = await stripe_world.call("PATCH", CONFIG, reader, json={"is_active": False})
    assert answer.status_code == 403


async def test_the_same_request_again_is_the_same_answer(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    headers = {"Idempotency-Key": "one"}
    body = {"stripe_secret_key": account.secret_key, "webhook_secret": "whsec_given_0"}
    first = await stripe_world.call("POST", CONFIG, key, json=body, headers=headers)
    again = await stripe_world.call("POST", CONFIG, key, json=body, headers=headers)
    assert first.status_code == again.status_code == 201
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(await stripe_world.rows(tenant)) == 2
    other = body | {"webhook_secret": "whsec_given_1"}
    answer = await stripe_world.call("POST", CONFIG, key, json=other, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")


async def test_every_change_is_told_with_its_secrets_masked(stripe_world: StripeWorld) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    await stripe_world.call("PATCH", CONFIG, key, json={"is_active": False})
    told = [
        event.data
        for event in stripe_world.world.log.events(ConfigurationChanged)
        if event.tenant_id == UUID(tenant) and event.data.action.startswith("stripe_")
    ]
    assert [fact.action for fact in told] == [
        "stripe_connection.created",
        "stripe_webhook.registered",
        "stripe_connection.deactivated",
    ]
    assert told[0].after is not None
    assert told[0].after["secret_key_last4"] == account.secret_key[-4:]
    assert told[0].after["account_id"] == account.id


async def test_no_canary_stands_anywhere(
    stripe_world: StripeWorld, capfd: pytest.CaptureFixture[str], database: Any
) -> None:
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    planted = [account.secret_key, "whsec_canary_given_by_the_tenant"]
    answers = [
        await stripe_world.configure(key, stripe_secret_key=planted[0], webhook_secret=planted[1]),
        await stripe_world.configure(key, stripe_secret_key=planted[0] + "x"),
        await stripe_world.call("GET", CONFIG, key),
        await stripe_world.call("GET", f"/api/v1/tenants/{tenant}", key),
    ]
    log = stripe_world.world.log.topics.values()
    topics = b"".join((record.value or b"") for records in log for record in records).decode()
    async with database.admin() as admin:
        tables = await admin.fetch("select tablename from pg_tables where schemaname = 'tenants'")
        rows = [
            str(await admin.fetch(f"select to_jsonb(t) from tenants.{name} t"))
            for (name,) in tables
        ]
    output = "".join(capfd.readouterr())
    for canary in (
        *planted,
        planted[0].encode().hex(),
        base64.b64encode(planted[0].encode()).decode(),
    ):
        for place in (*(answer.text for answer in answers), topics, *rows, output):
            assert canary not in place


async def _make_due(stripe_world: StripeWorld) -> None:
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute(
            "update stripe_connection set webhook_due_at = now() - interval '1 second'"
        )
