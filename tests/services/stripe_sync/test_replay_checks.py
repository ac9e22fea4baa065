"""A replay that is only tried says what would change, and changes nothing."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import from_unix, utc_now
from libs.contracts.envelope import wrap
from libs.contracts.gateway import StripeEventReceived, WebhookReplayCanceled
from libs.contracts.stripe_sync import StripeSubscriptionChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID
from services.stripe_sync import checks, store_checks
from services.stripe_sync.checks import Checker, Checking, changes_between
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import Tenant, World


def try_again(world: World, events: list[dict[str, Any]], replay: str, tenant: Tenant) -> None:
    """Put events of the archive on the log as a dry run does."""
    for event in events:
        subject = event["data"]["object"]
        fact = StripeEventReceived(
            account="platform",
            stripe_event_id=event["id"],
            event_type=event["type"],
            api_version=event["api_version"],
            created_at=from_unix(event["created"]),
            object_type=subject["object"],
            object_id=subject.get("id"),
            payload=json.dumps(event),
            replay_id=replay,
            dry_run=True,
        )
        world.log.publish(
            wrap(
                fact,
                tenant_id=tenant.id,
                mode="test",
                source="gateway",
                effective_at=utc_now(),
            )
        )


async def check(world: World) -> int:
    identity = await world.identities.of("platform", "test")
    assert identity is not None
    return await Checker(world.database, identity).run_once()


async def test_a_dry_run_shows_the_fields_that_would_change_and_writes_nothing(
    world: World,
) -> None:
    acme, globex = world.tenants["acme"], world.tenants["globex"]
    await world.plan()
    await world.subscribe(acme)
    subscription = world.log.events(StripeSubscriptionChanged)[-1].data.stripe_subscription_id
    world.sandbox.client.post(
        f"/v1/subscriptions/{subscription}",
        data={"cancel_at_period_end": "true"},
        headers={"authorization": f"Bearer {world.key}"},
    )
    before = await world.checksum()
    try_again(world, world.sandbox.events(world.key)[:-1], "rpl_1", acme)
    await world.log.settle()
    path = "/api/v1/webhook-replays/rpl_1/differences"
    body = (await world.get(acme, path)).json()
    assert body["pending"] > 3
    assert (body["checked"], body["items"]) == (0, [])
    calls = len(await world.rows("replay_check"))
    assert await check(world) == calls
    after = await world.checksum()
    assert {name for name in before if before[name] != after[name]} == {"replay_check"}
    body = (await world.get(acme, path)).json()
    assert (body["pending"], body["failed"], body["checked"]) == (0, 0, calls)
    assert body["different"] == 1
    (item,) = body["items"]
    assert (item["object_type"], item["object_id"]) == ("subscription", subscription)
    assert item["changes"]["cancel_at_period_end"] == {"before": False, "after": True}
    assert (await world.get(world.tenants["platform"], path)).json()["different"] == 1
    assert (await world.get(globex, path)).status_code == 404
    await world.log.replay(clear_inboxes=True)
    assert await check(world) == 0
    assert (await world.get(acme, path)).json() == body


async def test_an_object_that_is_not_mirrored_or_gone_is_told_as_such(world: World) -> None:
    await world.plan()
    answer = await world.checkout(world.tenants["acme"])
    world.sandbox.pay(answer.json()["session_id"])
    platform = world.tenants["platform"]
    events = world.sandbox.events(world.key)
    absent = json.loads(json.dumps(events[-1]))
    absent["data"]["object"] = {"id": "in_gone", "object": "invoice"}
    paid = [event for event in events if event["type"] == "invoice.paid"]
    try_again(world, [*paid, absent], "rpl_2", platform)
    await world.log.settle()
    await check(world)
    body = (await world.get(platform, "/api/v1/webhook-replays/rpl_2/differences")).json()
    (item,) = body["items"]
    assert item["changes"]["status"] == {"before": None, "after": "paid"}
    assert (body["checked"], body["different"]) == (2, 1), "what is gone on both sides is the same"
    assert "acme" not in json.dumps(item["changes"]).lower()
    assert await world.rows("stripe_object") == []


async def test_a_dry_run_of_a_former_owner_shows_nothing_of_its_account(world: World) -> None:
    before = await own_account(world, "acme")
    await world.settle()
    customer = await before.create_customer(name="Known")
    async with world.database.tenant(before.tenant.id, "test") as tx:
        await store_checks.enter(
            tx, "rpl_4", before.account, [("customer", customer["id"])], utc_now()
        )
    await before.tell(account_id=None, status="REVOKED")
    after = Own(
        world, world.tenants["globex"], before.account, before.key, "RAW_KEYS", snapshots=10
    )
    await after.give_keys(before.key)
    await after.tell()
    world.identities.shared.directory._cache.clear()
    identity = await world.identities.of(before.account, "test")
    assert identity is not None
    assert identity.tenant_id == after.tenant.id
    await Checker(world.database, identity).run_once()
    (row,) = await world.rows("replay_check")
    assert (row["state"], json.loads(row["changes"])) == ("failed", {})
    assert row["last_error"] == "the tenant has not connected this account"
    # Also where the account moves while a batch is under way.
    async with world.database.tenant(before.tenant.id, "test") as tx:
        await tx.execute("update replay_check set state = 'pending', last_error = null")
    former = replace(identity, tenant_id=before.tenant.id)
    await Checker(world.database, former).run_once()
    (row,) = await world.rows("replay_check")
    assert (row["state"], json.loads(row["changes"])) == ("failed", {})


async def enter(world: World, replay: str, account: str, tenant: Tenant, number: int) -> None:
    """So many objects of a replay that nobody has compared."""
    objects = [("customer", f"cus_{replay[4:]}{each}") for each in range(number)]
    async with world.database.tenant(tenant.id, "test") as tx:
        await store_checks.enter(tx, replay, account, objects, utc_now())


async def test_a_long_dry_run_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = world.tenants["acme"], world.tenants["globex"]
    own = await own_account(world, "globex")
    await world.settle()
    await enter(world, "rpl_long", "platform", acme, 60)
    await enter(world, "rpl_short", "platform", globex, 1)
    await enter(world, "rpl_own", own.account, globex, 1)
    async with world.database.maintenance() as tx:
        due = await store_checks.due(tx, "platform", "test", utc_now(), 2)
    assert [each.replay_id for each in due] == ["rpl_long", "rpl_short"]
    monkeypatch.setattr(checks, "ACCOUNTS_AT_ONCE_MAX", 1)
    monkeypatch.setattr(checks, "BATCH_OBJECTS", 1)
    checking = Checking(world.database, world.identities)
    turns = []
    for _ in range(3):
        (of,) = await checking.due()
        turns.append(of[0])
        await checking._check(of)
    assert turns == ["platform", own.account, "platform"]


async def test_a_canceled_dry_run_compares_nothing_more(world: World) -> None:
    acme, globex, platform = (world.tenants[slug] for slug in ("acme", "globex", "platform"))
    for replay, tenant in (("rpl_own", acme), ("rpl_all", acme), ("rpl_all", globex)):
        await enter(world, replay, "platform", tenant, 2)
    # Another tenant's word ends nothing of acme's; its own does at once, the platform's by the job.
    for tenant, replay in ((globex, "rpl_own"), (platform, "rpl_all")):
        await world.publish(WebhookReplayCanceled(replay_id=replay), tenant.id)
    await checks.clean(world.database, utc_now())
    left = [(row["tenant_id"], row["replay_id"]) for row in await world.rows("replay_check")]
    assert left == [(acme.id, "rpl_own")] * 2
    await world.publish(WebhookReplayCanceled(replay_id="rpl_own"), acme.id)
    assert await world.rows("replay_check") == []
    # What was on its way goes too; of other replays nothing does.
    await enter(world, "rpl_all", "platform", globex, 1)
    await enter(world, "rpl_other", "platform", globex, 1)
    await checks.clean(world.database, utc_now())
    assert [row["replay_id"] for row in await world.rows("replay_check")] == ["rpl_other"]
    await checks.clean(world.database, utc_now() + timedelta(days=60))
    assert await world.rows("canceled_replay") == []


async def test_pages_of_differences_and_bad_questions(world: World) -> None:
    platform = world.tenants["platform"]
    async with world.database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        for number in range(5):
            await tx.execute(
                "insert into replay_check (tenant_id, mode, replay_id, account, object_type, "
                "object_id, state, entered_at) values ($1, 'test', 'rpl_3', 'platform', 'invoice', "
                "$2, 'different', now())",
                PLATFORM_TENANT_ID,
                f"in_{number}",
            )
    path, found, cursor = "/api/v1/webhook-replays/rpl_3/differences?limit=2", [], ""
    while True:
        body = (await world.get(platform, path + cursor)).json()
        found += [item["object_id"] for item in body["items"]]
        if body["next_cursor"] is None:
            break
        cursor = f"&cursor={body['next_cursor']}"
    assert found == [f"in_{number}" for number in range(5)]
    for path, status in (
        ("/api/v1/webhook-replays/nothing/differences", 404),
        ("/api/v1/webhook-replays/%00/differences", 400),
        (f"/api/v1/webhook-replays/{'x' * 101}/differences", 422),
        ("/api/v1/webhook-replays/rpl_3/differences?cursor=x", 400),
        ("/api/v1/webhook-replays/rpl_3/differences?limit=0", 422),
    ):
        assert (await world.get(platform, path)).status_code == status, path


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1}, {"a": 1}, {}),
        (None, None, {}),
        ({"a": 1}, None, {"a": {"before": 1, "after": None}}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, {"a": {"before": '{"b": 1}', "after": '{"b": 2}'}}),
        ({}, {"a": "x" * 500}, {"a": {"before": None, "after": "x" * 200}}),
    ],
)
def test_changes_are_shown_field_by_field(before: Any, after: Any, changes: Any) -> None:
    assert changes_between(before, after) == changes
