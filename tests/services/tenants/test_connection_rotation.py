"""Rotating a tenant's Stripe key and webhook secret: two at once, then one, then a dead one."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx
import pytest

from libs.clock import utc_now
from libs.contracts.audit import KeyUsed, SecurityEventRaised
from libs.ids import parse_public_id
from services.tenants import connection_jobs, secrets, webhooks
from services.tenants.raw_keys import hash_token
from services.tenants.stripe_api import StripeApi
from tests.services.tenants.sandbox import CONFIG, SDK_WARNING, Account, StripeWorld

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)


async def configured(stripe_world: StripeWorld) -> tuple[str, str, Account]:
    """A tenant with raw keys: its id, its API key, its account."""
    tenant, key = await stripe_world.tenant("Acme")
    account = stripe_world.sandbox.account()
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert answer.status_code == 201, answer.text
    return tenant, key, account


async def pass_time(stripe_world: StripeWorld, by: timedelta) -> None:
    """As if everything had happened so much earlier, and all that waits is due."""
    async with stripe_world.world.database.maintenance() as tx:
        for column in ("valid_until", "replaced_at", "archived_at"):
            await tx.execute(f"update connection_secret set {column} = {column} - $1::interval", by)
        await tx.execute(
            "update connection_secret set check_due_at = now() where check_due_at is not null"
        )
        await tx.execute(
            "update stripe_connection set key_check_due_at = now() where key_check_due_at is not null"
        )


async def finish(stripe_world: StripeWorld) -> None:
    await connection_jobs.finish_secrets(stripe_world.means)
    await stripe_world.world.settle()


async def test_a_key_is_rotated_with_an_overlap_and_the_old_one_seen_dead(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, account = await configured(stripe_world)
    newer = stripe_world.sandbox.key(account.id)
    answer = await stripe_world.configure(key, stripe_secret_key=newer)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["secret_key"]["version"], body["secret_key"]["last4"]) == (2, newer[-4:])
    assert (body["previous"]["version"], body["previous"]["state"]) == (1, "previous")
    assert "Revoke the old key" in body["previous"]["advice"]
    told = {
        (each.version, each.valid_until is None)
        for each in stripe_world.secrets(tenant).secrets
        if each.name == "stripe_secret_key"
    }
    assert told == {(2, True), (1, False)}
    assert stripe_world.world.snapshot(tenant).connections[0].credential_version == 2

    # Still used: it stays. Nobody uses it for a while: it is taken out of use, and watched.
    connection = UUID(str(stripe_world.world.snapshot(tenant).connections[0].connection_id))
    await pass_time(stripe_world, timedelta(minutes=30))
    use = KeyUsed(
        kind="stripe_secret_key",
        object_id=str(connection),
        version=1,
        service="stripe_sync",
        used_at=utc_now(),
    )
    stripe_world.world.tell(tenant, use, source="stripe_sync")
    await stripe_world.world.settle()
    await finish(stripe_world)
    shown = (await stripe_world.call("GET", CONFIG, key)).json()["previous"]
    assert shown["state"] == "previous"
    assert shown["last_used_at"] is not None
    await pass_time(stripe_world, timedelta(hours=25))
    await finish(stripe_world)
    shown = (await stripe_world.call("GET", CONFIG, key)).json()["previous"]
    assert (shown["state"], shown["dead_at"]) == ("archived", None)
    assert [
        each.version
        for each in stripe_world.secrets(tenant).secrets
        if each.name == "stripe_secret_key"
    ] == [2]

    stripe_world.sandbox.revoke(account.secret_key)
    await pass_time(stripe_world, timedelta())
    await finish(stripe_world)
    shown = (await stripe_world.call("GET", CONFIG, key)).json()["previous"]
    assert (shown["state"], shown["advice"]) == ("destroyed", None)
    assert shown["dead_at"] is not None
    row = (await stripe_world.rows(tenant))[0]
    assert (row["sealed"], row["reference"], row["last4"]) == (None, None, account.secret_key[-4:])


async def test_a_bad_new_key_leaves_the_old_one(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    version = stripe_world.secrets(tenant).version
    stripe_world.sandbox.revoke(revoked := stripe_world.sandbox.key(account.id))
    answer = await stripe_world.configure(key, stripe_secret_key=revoked)
    assert answer.status_code == 400
    assert stripe_world.secrets(tenant).version == version


async def test_at_most_two_keys_are_good_at_once(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    for _ in range(3):
        newer = stripe_world.sandbox.key(account.id)
        assert (await stripe_world.configure(key, stripe_secret_key=newer)).is_success
    versions = [
        each.version
        for each in stripe_world.secrets(tenant).secrets
        if each.name == "stripe_secret_key"
    ]
    assert versions == [4, 3]


async def test_the_key_in_use_given_again_is_no_new_version(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    version = stripe_world.secrets(tenant).version
    answer = await stripe_world.configure(key, stripe_secret_key=account.secret_key)
    assert (answer.status_code, answer.json()["secret_key"]["version"]) == (200, 1)
    assert stripe_world.secrets(tenant).version == version


async def test_a_webhook_secret_overlaps_for_its_whole_time(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    given = {"webhook_secret": "whsec_given_by_the_tenant"}
    answer = await stripe_world.configure(key, **given)
    assert answer.json()["webhook"]["status"] == "given"
    assert answer.json()["webhook"]["previous"]["version"] == 1
    # Both URLs work while both secrets do.
    assert len(stripe_world.world.snapshot(tenant).connections[0].webhook_token_hashes) == 2
    await pass_time(stripe_world, timedelta(hours=23))
    await finish(stripe_world)
    names = [(e.name, e.version) for e in stripe_world.secrets(tenant).secrets]
    assert ("stripe_webhook_secret", 1) in names
    await pass_time(stripe_world, timedelta(hours=2))
    await finish(stripe_world)
    names = [(e.name, e.version) for e in stripe_world.secrets(tenant).secrets]
    assert ("stripe_webhook_secret", 1) not in names
    states = {
        r["version"]: r["state"]
        for r in await stripe_world.rows(tenant)
        if r["name"] == "stripe_webhook_secret"
    }
    assert states == {1: "destroyed", 2: "current"}
    too_long = await stripe_world.configure(key, **given, overlap_seconds=86401)
    assert too_long.status_code == 422
    assert account.id


async def test_a_registered_webhook_is_made_anew_and_the_old_one_taken_back(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, account = await configured(stripe_world)
    (first,) = stripe_world.sandbox.endpoints(account.secret_key)
    answer = await stripe_world.call("POST", f"{CONFIG}/webhook", key)
    assert answer.status_code == 202, answer.text
    webhook = answer.json()["webhook"]
    assert (webhook["status"], webhook["secret"]["version"]) == ("registered", 2)
    assert webhook["previous"]["version"] == 1
    endpoints = stripe_world.sandbox.endpoints(account.secret_key)
    tokens = {each["url"].rpartition("/")[2] for each in endpoints}
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert {hash_token(token) for token in tokens} == set(told.webhook_token_hashes)
    assert len(tokens) == 2
    await pass_time(stripe_world, timedelta(hours=25))
    await finish(stripe_world)
    (left,) = stripe_world.sandbox.endpoints(account.secret_key)
    assert left["id"] != first["id"]
    await stripe_world.configure(key, webhook_secret="whsec_of_their_own")
    answer = await stripe_world.call("POST", f"{CONFIG}/webhook", key, json={"overlap_seconds": 0})
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_not_ours")


async def test_a_second_roll_ends_no_endpoint_before_its_time(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    path = f"{CONFIG}/webhook"
    assert (await stripe_world.call("POST", path, key)).status_code == 202
    before = {each["id"] for each in stripe_world.sandbox.endpoints(account.secret_key)}
    told = stripe_world.world.snapshot(tenant).connections[0].webhook_token_hashes
    await pass_time(stripe_world, timedelta(hours=23))
    for roll in (
        stripe_world.call("POST", path, key, json={"overlap_seconds": 60}),
        stripe_world.configure(key, webhook_secret="whsec_of_their_own"),
    ):
        answer = await roll
        assert (answer.status_code, answer.json()["code"]) == (409, "webhook_roll_under_way")
        assert "overlap_seconds: 0" in answer.json()["detail"]
    assert {e["id"] for e in stripe_world.sandbox.endpoints(account.secret_key)} == before
    assert stripe_world.world.snapshot(tenant).connections[0].webhook_token_hashes == told
    # Its time is over: the next roll may come, whether or not the job was faster.
    await pass_time(stripe_world, timedelta(hours=2))
    assert (await stripe_world.call("POST", path, key)).status_code == 202
    assert len(stripe_world.sandbox.endpoints(account.secret_key)) == 2
    # A leaked secret does not wait: without an overlap all but the new one stop.
    answer = await stripe_world.call("POST", path, key, json={"overlap_seconds": 0})
    assert answer.status_code == 202, answer.text
    newest = answer.json()["webhook"]["secret"]["version"]
    good = [
        each.version
        for each in stripe_world.secrets(tenant).secrets
        if each.name == "stripe_webhook_secret"
        and (each.valid_until is None or each.valid_until > utc_now())
    ]
    assert good == [newest]


@pytest.mark.parametrize(("asked", "good"), [(0, 1), (3600, 2)])
async def test_a_roll_that_is_made_later_keeps_the_overlap_that_was_asked_for(
    stripe_world: StripeWorld, asked: int, good: int
) -> None:
    tenant, key, _ = await configured(stripe_world)
    stripe_world.sandbox.fault(kind="error", path="/v1/webhook_endpoints", method="POST")
    body = {"overlap_seconds": asked}
    answer = await stripe_world.call("POST", f"{CONFIG}/webhook", key, json=body)
    assert (answer.status_code, answer.json()["webhook"]["status"]) == (202, "registering")
    stripe_world.sandbox.mend()
    async with stripe_world.world.database.maintenance() as tx:
        await tx.execute("update stripe_connection set webhook_due_at = now()")
    await webhooks.run_once(stripe_world.means)
    await stripe_world.world.settle()
    until = [
        each.valid_until
        for each in stripe_world.secrets(tenant).secrets
        if each.name == "stripe_webhook_secret"
    ]
    now = utc_now()
    ends = [each for each in until if each is not None and each > now]
    assert until.count(None) == 1
    assert 1 + len(ends) == good
    assert all(each <= now + timedelta(seconds=asked) for each in ends)
    # What was asked for was asked for once.
    assert (await stripe_world.connection(tenant))["webhook_overlap_seconds"] is None


async def test_attempts_to_roll_leave_the_registered_endpoint_its_address(
    stripe_world: StripeWorld,
) -> None:
    tenant, key, account = await configured(stripe_world)
    (told,) = stripe_world.world.snapshot(tenant).connections
    (registered,) = told.webhook_token_hashes
    stripe_world.sandbox.fault(kind="error", path="/v1/webhook_endpoints", method="POST")
    await stripe_world.call("POST", f"{CONFIG}/webhook", key)
    for attempt in range(3):
        if attempt == 2:
            stripe_world.sandbox.mend()
        (told,) = stripe_world.world.snapshot(tenant).connections
        assert registered in told.webhook_token_hashes
        async with stripe_world.world.database.maintenance() as tx:
            await tx.execute("update stripe_connection set webhook_due_at = now()")
        await webhooks.run_once(stripe_world.means)
        await stripe_world.world.settle()
    (told,) = stripe_world.world.snapshot(tenant).connections
    assert registered in told.webhook_token_hashes
    assert len(stripe_world.sandbox.endpoints(account.secret_key)) == 2


async def test_a_key_that_outlives_its_replacement_is_told_of(stripe_world: StripeWorld) -> None:
    tenant, key, account = await configured(stripe_world)
    await stripe_world.configure(key, stripe_secret_key=stripe_world.sandbox.key(account.id))
    await pass_time(stripe_world, timedelta(hours=25))
    await finish(stripe_world)
    await pass_time(stripe_world, timedelta(days=31))
    await finish(stripe_world)
    row = (await stripe_world.rows(tenant))[0]
    assert (row["state"], row["dead_at"]) == ("destroyed", None)
    kinds = [event.data.kind for event in stripe_world.world.log.events(SecurityEventRaised)]
    assert kinds.count("stripe_key_still_alive") == 1


async def test_nobody_fails_while_keys_are_rotated(stripe_world: StripeWorld) -> None:
    """Readers of what is told always find a key that Stripe takes."""
    tenant, key, account = await configured(stripe_world)
    failures: list[str] = []
    calls = 0
    over = asyncio.Event()

    async def use() -> None:
        nonlocal calls
        async with httpx.AsyncClient(base_url=stripe_world.sandbox.url, timeout=60) as stripe:
            while not over.is_set():
                told = stripe_world.secrets(tenant)
                current = next(
                    each
                    for each in told.secrets
                    if each.name == "stripe_secret_key" and each.valid_until is None
                )
                async with stripe_world.world.database.tenant(UUID(tenant), "test") as tx:
                    row = await tx.fetchrow(
                        "select * from connection_secret where secret_id = $1", current.secret_id
                    )
                assert row is not None
                value = await secrets.read(stripe_world.means.sealer, UUID(tenant), row)
                answer = await stripe.get(
                    "/v1/account", headers={"authorization": f"Bearer {value}"}
                )
                calls += 1
                if answer.status_code != 200:
                    failures.append(answer.text)

    readers = [asyncio.create_task(use()) for _ in range(3)]
    for _ in range(8):
        newer = stripe_world.sandbox.key(account.id)
        assert (await stripe_world.configure(key, stripe_secret_key=newer)).is_success
    over.set()
    await asyncio.gather(*readers)
    assert failures == []
    assert calls >= 8


class CrashError(BaseException):
    """The process dies here."""


def crashing_at(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Let the process die at a call to Stripe: at an even point before it, at an odd one after it."""
    real = StripeApi._call
    state = {"left": -1}

    async def call(self: StripeApi, *args: object, **options: object) -> object:
        state["left"] -= 1
        if state["left"] == -2:
            raise CrashError
        answer = await real(self, *args, **options)  # type: ignore[arg-type]
        state["left"] -= 1
        if state["left"] == -2:
            raise CrashError
        return answer

    monkeypatch.setattr(StripeApi, "_call", call)

    def arm(point: int) -> None:
        state["left"] = point - 1

    arm(10_000)
    assert stripe_world
    return arm


async def test_a_rotation_that_dies_at_any_step_is_made_good(
    stripe_world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = crashing_at(stripe_world, monkeypatch)
    for point in range(10):
        tenant, key = await stripe_world.tenant(f"Acme {point}")
        account = stripe_world.sandbox.account()
        arm(point)
        headers = {"Authorization": f"Bearer {key}"}
        body = {"stripe_secret_key": account.secret_key}
        died = False
        try:
            await stripe_world.world.client.post(CONFIG, json=body, headers=headers)
        except CrashError:
            died = True
        arm(10_000)
        await stripe_world.world.settle()
        # The caller asks again, or the job goes on with what is wanted; both end the same.
        if await stripe_world.rows(tenant) == []:
            assert (await stripe_world.configure(key, **body)).status_code == 201
        async with stripe_world.world.database.maintenance() as tx:
            await tx.execute(
                "update stripe_connection set webhook_due_at = now() "
                "where webhook_due_at is not null"
            )
        await webhooks.run_once(stripe_world.means)
        await stripe_world.world.settle()
        shown = (await stripe_world.call("GET", CONFIG, key)).json()
        assert (shown["secret_key"]["version"], shown["webhook"]["status"]) == (1, "registered")
        (endpoint,) = stripe_world.sandbox.endpoints(account.secret_key)
        (told,) = stripe_world.world.snapshot(tenant).connections
        assert hash_token(endpoint["url"].rpartition("/")[2]) in told.webhook_token_hashes
        if not died:
            assert point >= 6
            return
    raise AssertionError("more steps than were expected")


def test_fingerprints_tell_secrets_apart_and_nothing_else() -> None:
    one, other = (secrets.fingerprint_of(text, b"p" * 32) for text in ("sk_test_1", "sk_test_2"))
    assert one != other
    assert len(one) == 16
    assert one != secrets.fingerprint_of("sk_test_1", b"q" * 32)
    assert parse_public_id("connection", f"con_{UUID(int=1)}") == UUID(int=1)
